#!/usr/bin/env bash
# Storing one artifact starts a second server, in a process of its own, on a TCP port.
# Guess: a PrefectClient that was given an app talks to that app, in this process, in all its methods.
# What happens: creating flow runs and setting states does. create_artifact also sends an event, and
# for that Prefect starts `uvicorn ... prefect.server.api.server:create_app`, which migrates and opens
# the same database, listens on 127.0.0.1 and inherits this process's standard output. Killed, this
# process leaves it behind, and who reads that output waits for it. The same artifact sent with the
# client's own request() starts nothing.
# Version: prefect 3.7.7, fastapi 0.136.3 (unpinned, pip took a newer one on 2026-11-29,
# with which Prefect raised a TypeError).
# Why it matters: a pipeline that shows its runs in Prefect without a server gets one for its results
# table, and several seconds of it at each end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q prefect==3.7.7 fastapi==0.136.3 psutil==7.2.2
cd "$work"
export HOME=$work PREFECT_HOME=$work/prefect PREFECT_LOGGING_LEVEL=CRITICAL
export PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=300
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import asyncio

import prefect
import psutil
from asgi_lifespan import LifespanManager
from prefect import Flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.server.api.server import create_app
from prefect.states import Completed, Running


def work():
    """Do nothing."""


def servers():
    """Where the servers listen that this process has started; two may start for one event."""
    found = [one for one in psutil.Process().children(recursive=True) if "uvicorn" in one.cmdline()]
    return sorted({at.laddr.ip for one in found for at in one.net_connections("tcp")})


async def main():
    app = create_app(ephemeral=True)
    client = PrefectClient(app)
    client.manage_lifespan = False
    async with LifespanManager(app, startup_timeout=None, shutdown_timeout=None), client:
        run = await client.create_flow_run(Flow(work), state=Running())
        await client.set_flow_run_state(run.id, Completed())
        print("servers listen after a flow run and its states at", servers())
        assert servers() == []
        table = ArtifactCreate(key="results", type="markdown", data="| a |", flow_run_id=run.id)
        await client.request("POST", "/artifacts/", json=table.model_dump(mode="json", exclude_unset=True))
        print("after request() at", servers())
        assert servers() == []
        await client.create_artifact(table)
        print("after create_artifact() at", servers())
        assert servers() == ["127.0.0.1"]


print("prefect", prefect.__version__)
asyncio.run(main())
PY
