"""Who is at work in this folder: the holders of cells, and the commands that start them.

Read from what locks say, and never by trying to take one.
"""

import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from pipeline.processes import cell_log
from pipeline.runner.sharing import busy
from pipeline.stage.dataflow import REPORT
from pipeline.stage.run_records import DATA

DVC_LOCK = Path(".dvc/tmp/lock")  # has the process that took it last
# what a process that took it may be called, if it is one that runs stages
RUNNERS = {"repro", "run", "exp", "sweep"}
SHOWN = 100  # characters of a command line
SECOND = 1.0  # to which a lock says since when


class Writer(NamedTuple):
    """Who holds a cell, or held it when it ended."""

    pid: int
    host: str
    since: str  # local time of the host
    state: dict[str, Any]  # how far it is, or how it failed: pipeline/processes/cell_log.py
    alive: bool  # on another host: as far as its lock says

    @property
    def where(self) -> str:
        return f"process {self.pid} on {self.host}"


def writers() -> dict[str, Writer]:
    """By STAGE/KEY, of every cell whose lock is there."""
    found = {}
    for path in (*DATA.glob("*/.*.lock"), DATA / f".{REPORT}.lock"):
        if (held := cell_log.read(path)) is not None:
            key = path.name.removeprefix(".").removesuffix(".lock")
            stage = REPORT if path.parent == DATA else path.parent.name
            alive = "failed" not in held.state and _alive(held.pid, held.host, held.since)
            found[f"{stage}/{key}"] = Writer(*held, alive)
    return found


def commands() -> list[str]:
    """Commands that run cells in this folder now, each with its process."""
    pids = dict.fromkeys((*_of_flow(), *_of_dvc()))
    return [f"`{_words(pid)}` (process {pid})" for pid in pids]


def _of_flow() -> Iterator[int]:
    held = cell_log.read(busy.FLOW_LOCK)
    here = held is not None and held.host == socket.gethostname()
    if held is not None and here and _alive(held.pid, held.host, held.since):
        yield held.pid


def _of_dvc() -> Iterator[int]:
    with suppress(OSError, ValueError, psutil.Error):
        pid, taken = int(DVC_LOCK.read_text(encoding="utf-8")), DVC_LOCK.stat().st_mtime
        if _lives(pid, taken) and RUNNERS & set(psutil.Process(pid).cmdline()):
            yield pid


def _words(pid: int) -> str:
    with suppress(psutil.Error):
        first, *rest = psutil.Process(pid).cmdline()
        names = [Path(one).name if one.startswith("/") else one for one in (first, *rest)]
        return shlex.join(names)[:SHOWN]
    return "a command"


def _alive(pid: int, host: str, since: str) -> bool:
    if host != socket.gethostname():
        return True
    try:
        taken = datetime.strptime(since, "%Y-%m-%d %H:%M:%S").timestamp()
    except ValueError:
        return False
    return _lives(pid, taken)


def _lives(pid: int, taken: float) -> bool:
    """Whether the process that took a lock then is still there, and no later one of its number."""
    try:
        process = psutil.Process(pid)
        begun = process.create_time()
        return begun <= taken + SECOND and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def ago(since: str) -> float | None:
    """Seconds since then."""
    try:
        return max(time.time() - datetime.strptime(since, "%Y-%m-%d %H:%M:%S").timestamp(), 0.0)
    except ValueError:
        return None
