"""What a team has on other machines, here on loopback: Prefect's server and Postgres. Each can go
away and come back with what it had."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import databases
from tests.runner.workers.remotes import answers, free
from tests.telling import wait_for

STARTS_SECONDS = 400.0  # on a busy machine


class Prefect:
    """Prefect's own server, on SQLite."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="omniopd-prefect-")
        self.port = free()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.come()

    def come(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PREFECT_HOME": self.home, "DO_NOT_TRACK": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._healthy, STARTS_SECONDS)

    def leave(self) -> None:
        """As a machine that loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        self.leave()
        shutil.rmtree(self.home, ignore_errors=True)

    def _healthy(self) -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"{self.url}/health", timeout=5).status == 200)
        return False


class Postgres:
    """A server that listens on 127.0.0.1, with an empty database `team`."""

    def __init__(self) -> None:
        self._held = databases.postgres()
        self._server: Any = self._held.__enter__()
        self.port = free()
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/team"
        databases.url_of(self._server, "team")
        self.leave()
        self.come()

    def come(self) -> None:
        folder = Path(self._server.pgdata)
        words = f"-h 127.0.0.1 -p {self.port} -k {folder}"
        databases.control(self._server, "-o", words, "start")
        wait_for(lambda: answers(self.port))

    def leave(self) -> None:
        databases.control(self._server, "-m", "immediate", "stop")

    def end(self) -> None:
        self._held.__exit__(None, None, None)
