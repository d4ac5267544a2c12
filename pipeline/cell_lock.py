"""One process at a time writes a cell: it holds a lock beside the cell's folder until it ends.

The lock is the kernel's (flock on data/STAGE/.KEY.lock), so that it goes with its holder, however
that ends; on a network file system it holds between machines too. Beside the folder and not in it,
because DVC removes what a cell has written before it runs it again. In a file that is left after a
kill stands who it was; it holds nothing.
"""

import atexit
import fcntl
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

WAIT_SECONDS = 10.0  # for a holder that has just been killed: its memory is taken apart first
LOOK_SECONDS = 0.1


def hold(folder: Path) -> None:
    """Hold the lock of the cell in `folder` until this process ends.

    Ends the process with one paragraph where another one has it.
    """
    path = folder.parent / f".{folder.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + WAIT_SECONDS
    while (descriptor := _taken(path)) is None:
        if time.monotonic() > limit:
            holder = path.read_text(errors="replace").strip() or "a process that has just begun"
            sys.exit(
                f"error: {folder} is being written by {holder}. Two at a time would mix what they "
                "write. Wait until it ends, or end it, and run this again."
            )
        time.sleep(LOOK_SECONDS)
    started = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    who = f"process {os.getpid()} on {socket.gethostname()} since {started} ({sys.argv[0]})"
    os.truncate(descriptor, 0)
    os.write(descriptor, who.encode())
    atexit.register(_give_back, path, os.getpid())


def _taken(path: Path) -> int | None:
    """A descriptor of the file with its lock; None while another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # held, or removed by a holder that ended
        pass
    os.close(descriptor)
    return None


def _give_back(path: Path, pid: int) -> None:
    """Remove the file; the end of the process frees the lock."""
    if os.getpid() == pid:  # and not a fork of it
        path.unlink(missing_ok=True)
