#!/usr/bin/env bash
# A file of Prefect's server lies in ~/.prefect, whatever PREFECT_HOME says, and is shared by all homes.
# Guess: with PREFECT_HOME set, everything that Prefect keeps lies there, and two homes know nothing
# of each other.
# What happens: the server's memo, which says "this database has its block types", keeps its default
# path in the user's home. Where ~/.prefect is missing, each start fails to write it and registers all
# block types again. Without registering them it still writes the file; only
# PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION=false stops that.
# Version: prefect 3.7.7, fastapi 0.136.3 (unpinned, pip took a newer one on 2026-11-29,
# with which Prefect raised a TypeError).
# Why it matters: one PREFECT_HOME for each experiment is how runs are kept apart on a shared machine.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q prefect==3.7.7 fastapi==0.136.3
cd "$work"
mkdir home
export HOME=$work/home PREFECT_HOME=$work/experiment PREFECT_UI_ENABLED=false
export PREFECT_SERVER_ANALYTICS_ENABLED=false
cat > start.py <<'PY'
"""Start the server in this process and end it."""

import asyncio
import time

from asgi_lifespan import LifespanManager
from prefect.server.api.server import create_app


async def main():
    start = time.monotonic()
    async with LifespanManager(create_app(ephemeral=True), startup_timeout=None):
        print(f"{time.monotonic() - start:.1f} s", flush=True)
        await asyncio.sleep(2)  # its services begin in the background, and cannot end before


asyncio.run(main())
PY
venv/bin/python - <<'PY'
import os

import prefect
from prefect.settings import get_current_settings

found = get_current_settings()
print("prefect", prefect.__version__)
print("database in PREFECT_HOME:", os.environ["PREFECT_HOME"] in found.server.database.connection_url.get_secret_value())
print("memo in PREFECT_HOME:", found.server.memo_store_path.is_relative_to(os.environ["PREFECT_HOME"]))
assert found.home.samefile(os.environ["PREFECT_HOME"]) or str(found.home) == os.environ["PREFECT_HOME"]
assert found.server.memo_store_path == found.server.memo_store_path.home() / ".prefect" / "memo_store.toml"
PY
for start in first second; do
    echo "$start start without ~/.prefect: $(venv/bin/python start.py 2>log)"
    grep -q "Unable to write to memo_store.toml" log
done
mkdir home/.prefect
echo "with ~/.prefect: $(venv/bin/python start.py 2>log)"
test -s home/.prefect/memo_store.toml
rm -r home/.prefect
no_blocks=PREFECT_SERVER_REGISTER_BLOCKS_ON_START=false
no_memo=PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION=false
echo "no blocks: $(env $no_blocks venv/bin/python start.py 2>log)"
grep -q "Unable to write to memo_store.toml" log
echo "no blocks, no memo: $(env $no_blocks $no_memo venv/bin/python start.py 2>log)"
test ! -s log
test ! -e home/.prefect
