"""No process outlives the command that started it, however that ends.

    omniopd run, repro, audit ── watched() ── reaper: reads a pipe that only the command can write
     └─ all that it starts, and what these start, with the command's mark in their environment

The kernel closes the pipe when the command is gone, also after a kill -9; the reaper then kills
whatever carries the mark. A mark is inherited through sessions, process groups and parents that
have died, which process trees are not. The reaper is in a session of its own, so that what is sent
to the command's group or terminal does not reach it. Runs by itself: python -I -S reaper.py MARK.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

ENV = "OMNIOPD_RUN"  # the mark
POSSIBLE = os.path.isdir("/proc/self")
LIMIT_SECONDS = 30.0  # for what the kernel cannot end yet, as in a call to a dead file server
LOOK_SECONDS = 0.02  # between two looks
DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Mark what this process starts within the block; it is gone at the block's end.

    Does nothing where the system has no /proc.
    """
    if not POSSIBLE:
        yield
        return
    mark, before = secrets.token_hex(8), os.environ.get(ENV)
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    os.environ[ENV] = mark
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENV]
        else:
            os.environ[ENV] = before
        assert reaper.stdin is not None
        reaper.stdin.close()
        reaper.wait()


def marked(mark: str) -> list[int]:
    """Processes of this user that were started with the mark."""
    found, wanted = [], f"{ENV}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        # else it has ended, or is another user's
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def end(mark: str) -> None:
    """Kill all that carry the mark, and what they start meanwhile: until a look finds none."""
    limit = time.monotonic() + LIMIT_SECONDS
    while (found := marked(mark)) and time.monotonic() < limit:
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def main() -> None:
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    end(sys.argv[1])


if __name__ == "__main__":
    main()
