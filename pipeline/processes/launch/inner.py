"""Where a launcher has brought us: `omniopd launched FOLDER SINCE NAME=VALUE... stage X ...`.

It runs the stage in the project's folder as its own child, and sees to its end with all that it
started: when a signal asks for it, when the launcher's other side is gone, or when this process is.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from pipeline.processes import reaper, stopping, subprocesses
from pipeline.processes.launch.client import INSIDE, RUNS
from pipeline.processes.launch.keeper import HELLO


def main(words: list[str]) -> int:
    """The exit status of the stage. `words`: what follows `launched`."""
    where = words.index("stage")
    folder, since, *told = words[:where]
    try:
        os.chdir(folder)
    except OSError as error:
        sys.stderr.write(
            f"error: {folder}: found '{error.strerror}' on {socket.gethostname()}, wanted the "
            "project's folder, at the same path as where the run was started. Share it, or leave "
            "this kind out of runtime.launch.\n"
        )
        return 2
    waited = max(time.time() - float(since), 0)
    sys.stderr.write(f"{RUNS}{socket.gethostname()}, waited {waited:.0f} s\n")
    sys.stderr.flush()
    given = dict(one.split("=", 1) for one in told)
    return _run([sys.argv[0], *words[where:]], {**given, INSIDE: "1"})


def _run(command: list[str], given: dict[str, str]) -> int:
    try:
        with stopping.heard(), reaper.watched():
            process = subprocess.Popen(
                command, env={**os.environ, **given}, stdin=subprocess.DEVNULL, process_group=0
            )
            threading.Thread(target=_watch, daemon=True).start()
            try:
                status = process.wait()
            except stopping.Asked:
                subprocesses.end([process.pid])
                raise
    except stopping.Asked as asked:
        return asked.status
    return status if status >= 0 else 128 - status  # as a shell has it


def _watch() -> None:
    """End this process when its stdin ends, where the launcher passes on what the keeper holds."""
    found = b""
    with contextlib.suppress(OSError):  # a terminal that was closed
        while piece := os.read(0, 64):  # a thread in sys.stdin would abort Python at its end
            found += piece
    if found == HELLO:
        os.kill(os.getpid(), signal.SIGTERM)
