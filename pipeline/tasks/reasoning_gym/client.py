"""The process that makes problems and scores answers (server.py), as the stages ask it."""

import atexit
import functools
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

SERVER = "pipeline.tasks.reasoning_gym.server"  # is loaded in no process but that one


class Worker:
    """The process that has reasoning-gym imported. A new one is started after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(
        self, seconds: float | None, do: str, name: str, settings: dict[str, Any], **request: Any
    ) -> dict[str, Any]:
        """Its reply; {reason: timeout or crashed} if there is none after `seconds`."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = json.dumps([do, seconds, name, settings, request]) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
            if not select.select([process.stdout], [], [], seconds)[0]:
                self.close()
                return {"reason": "timeout", "error": f"no reply in {seconds} s"}
            reply: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):  # it ended by itself: out of memory, or a crash in C
            self.close()
            return {"reason": "crashed", "error": "its process ended"}
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[3])
        source = f"import sys; sys.path.insert(0, {root!r}); import {SERVER} as m; m.serve()"
        process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            process.kill()
            process.wait()
            raise UserError("reasoning-gym did not start. Is it installed (see above)?")
        return process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@functools.cache
def worker(pid: int) -> Worker:
    """The one of this process; a forked child asks one of its own."""
    found = Worker()
    atexit.register(found.close)
    return found
