"""The DAG, one module per stage. A stage never imports another stage.

Here is how each begins: in the process that the fork server makes for it, where there is one, and
with the lock of the cell that it writes. The lock is the kernel's (flock on data/STAGE/.KEY.lock):
it goes with its holder, however that ends, and on a network file system holds between machines. It
lies beside the cell's folder, as DVC removes what a cell has written before it runs it again. A
file that a kill or an error has left says who it was and how it ended, and holds nothing.
"""

import atexit
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from types import TracebackType

from pipeline.processes import cell_log
from pipeline.processes.fork_server import hand_over, stage

COMMAND = "OMNIOPD_RUN"  # of pipeline/processes/reaper.py, which stages do not load
# of pipeline/training/process_group.py: a process that writes with the holder
RANK = "OMNIOPD_RANK"
WAIT_SECONDS = 10.0  # for a holder that was just killed: taking its memory apart takes time
LOOK_SECONDS = 0.1


def hold(folder: Path) -> cell_log.Log | None:
    """Hold the lock of the cell in `folder` until this process ends; where to say how far it is.

    Ends the process with one paragraph and the status of bad input where another one has it.
    """
    path = folder.parent / f".{folder.name}.lock"
    if RANK in os.environ:
        return _of_rank(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    limit = time.monotonic() + WAIT_SECONDS
    while (descriptor := _taken(path)) is None:
        if time.monotonic() > limit:
            from pipeline.core.errors import UserError, stop

            stop(
                UserError(
                    f"{folder} is being written by {_holder(path)}, wanted one process at a time: "
                    "two would mix what they write. Wait until that one ends, or end it, and run "
                    "this again."
                )
            )
        time.sleep(LOOK_SECONDS)
    who = cell_log.who().encode()
    os.truncate(descriptor, 0)
    os.write(descriptor, who)
    log = cell_log.Log(descriptor, len(who))
    atexit.register(_remove, path, os.getpid(), log)
    return log


def _of_rank(path: Path) -> cell_log.Log | None:
    """The first rank has the stage's bars, and says so in the lock that its launcher holds."""
    if not os.environ[RANK].startswith("0 ") or not path.is_file():
        return None
    descriptor = os.open(path, os.O_RDWR)
    return cell_log.Log(descriptor, len(os.pread(descriptor, 1000, 0).partition(b"\n")[0]))


def _taken(path: Path) -> int | None:
    """A descriptor of the file, locked; None while another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # it is held, or was removed as its holder ended
        pass
    os.close(descriptor)
    return None


def _holder(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        return text.partition("\n")[0] or "another process"
    except FileNotFoundError:
        return "another process"


def _folder(argv: list[str]) -> Path | None:
    """The folder that a stage with these words writes; None where they do not say."""
    words = {name: argv[argv.index(name) + 1] for name in ("--out", "--cell") if name in argv[:-1]}
    if "--out" in words:
        return Path(words["--out"])
    name, key = stage(argv), words.get("--cell", "")
    if not key.isalnum():
        return None
    return Path("data", name) if name == key else Path("data", name, key)


def _remove(path: Path, pid: int, log: cell_log.Log) -> None:
    """At the holder's end, whose lock the kernel frees; not at that of a fork of it, and not where
    it failed."""
    if os.getpid() == pid and not log.failed():
        path.unlink(missing_ok=True)


def _tell(log: cell_log.Log) -> None:
    """From here on what this process says and how far it is can be read in the cell's lock."""
    global _log
    _log = log
    sys.stderr = cell_log.Teed(sys.stderr, log.lines)
    cell_log.follow(log)


def _told(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """An interrupt is no fault of the stage, and the command that passes it on says it."""
    if not issubclass(kind, KeyboardInterrupt):
        if _log is not None:
            _log.crashed = True
        sys.__excepthook__(kind, error, at)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would only disturb the end
    if COMMAND not in os.environ:
        sys.stderr.write("interrupted\n")


_log: cell_log.Log | None = None
if stage(sys.orig_argv):
    sys.excepthook = _told
    hand_over()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # in a fork
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if (found := _folder(sys.orig_argv)) and (log := hold(found)):
        _tell(log)
