"""A process that imports torch and transformers once, and the stages that are forked from it.

    flow ── serving() ─────────────── server ── fork ── stage
     └─ dvc ── omniopd stage X (client) ───┘

The client, a plain `omniopd stage X`, gives away its command line, folder, environment and
standard streams before it imports anything, waits, and ends as its stage ends. Nothing but the
seconds differs: a stage imports `pipeline` and `stages` from the disk after the fork, and one
whose environment would have changed the imports themselves runs as if there were no server.

None outlives the others: a stage ends with its client and with the server, the server with the
process that started it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from pipeline.processes.program import SAFE

MODULE = "-m"
ENV = "OMNIOPD_FORKSERVER"  # path of the server's socket
POSSIBLE = hasattr(os, "fork") and hasattr(socket, "AF_UNIX")
SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # where TMPDIR is too long for a socket
LONGEST = 70  # bytes of a folder's path: 104 of a socket's, which the smallest system takes
PASSED_ON = (signal.SIGINT, signal.SIGTERM)
KILLED = 128 + signal.SIGKILL  # of a stage whose server is gone, as a shell has it
WORD = struct.Struct("i")
# stages that load no model: sooner done by themselves than when the server has imported torch
LIGHT = {"prepare", "forks", "score", "prior", "calibrate", "report"}


class Request(NamedTuple):
    argv: list[str]  # python .../omniopd stage X ...
    cwd: str
    environment: dict[str, str]
    interpreter: list[str]  # what must be the same in the server


@contextlib.contextmanager
def serving() -> Iterator[dict[str, str]]:
    """Have a server from when the first stage asks for it; yields what to add to the environment
    of commands that are to use it.

    At the end the server is gone with every stage that it still ran. Yields nothing where the
    environment names a server already, or where the system cannot fork and stages start by
    themselves.
    """
    place = for_sockets()
    if place is None or Path(os.environ.get(ENV, "")).is_socket():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="omniopd-", dir=place) as folder:
        address = str(Path(folder) / "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(128)
            waiting = _Waiting(listener)
            waiting.start()
            try:
                yield {ENV: address}
            finally:
                waiting.end()


def for_sockets() -> str | None:
    """A folder for temporary ones in which the path of a socket is not too long; None without.

    The system holds a path of a hundred bytes, and TMPDIR may be longer.
    """
    for place in (tempfile.gettempdir(), *SHORT):
        fits = len(os.fsencode(os.path.abspath(place))) <= LONGEST
        if POSSIBLE and fits and os.access(place, os.W_OK | os.X_OK):
            return place
    return None


class _Waiting(threading.Thread):
    """Starts the server when a stage has connected: where nothing is stale, none does."""

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(daemon=True)
        self._listener = listener
        self._server: subprocess.Popen[bytes] | None = None
        self._over, self._tell_over = os.pipe()

    def run(self) -> None:
        number = self._listener.fileno()
        ready, _, _ = select.select([number, self._over], [], [])
        if self._over in ready:
            return
        # the server inherits it: an interrupt in its first imports would print a traceback
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        command = [sys.executable, "-m", "pipeline.processes.fork_worker", str(number)]
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            pass_fds=[number],
            process_group=0,
            env={**os.environ, SAFE: "1"},  # as its stages have it
        )
        # the server's alone from now on: when it is gone, stages are refused and run by themselves
        self._listener.close()
        # while it imports, it dies with the thread that started it
        select.select([self._over], [], [])

    def end(self) -> None:
        from pipeline.processes import subprocesses

        os.close(self._tell_over)
        self.join()
        os.close(self._over)
        if self._server is not None:
            subprocesses.end([self._server.pid])
            self._server.wait()
            assert self._server.stdin is not None
            self._server.stdin.close()


def hand_over() -> None:
    """Let the server run this stage and end as it ends; return if it is to run here.

    For `stages/__init__.py`, before a stage has imported anything.
    """
    address, name = os.environ.get(ENV), stage(sys.orig_argv)
    if not address or not POSSIBLE or not name or MODULE in sys.orig_argv:
        return
    if name in LIGHT and not ready(address).exists():
        return
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [b"\0"], [0, 1, 2])
            connection.sendall(_packed(_request()))
            if not word(connection):
                return
        except OSError:  # none there, or it died before it took the stage
            return

        def pass_on(number: int, _: object) -> None:
            with contextlib.suppress(OSError):  # the stage has ended, or the server
                connection.sendall(bytes([number]))

        for number in PASSED_ON:
            signal.signal(number, pass_on)
        _end_as_the_stage(connection)


def ready(address: str) -> Path:
    """A file that the server makes when it has imported everything."""
    return Path(f"{address}.ready")


def stage(argv: list[str]) -> str:
    """The stage that a command line of Python runs; empty for none.

    As `omniopd stage X`, or as the ranks of one do, `python -m stages.X`
    (pipeline/training/launcher.py).
    """
    for word, before, after in zip(argv[1:], argv, argv[2:], strict=False):
        if word == MODULE and after.startswith("stages."):
            return after.partition(".")[2]
        if word == "stage" and os.path.basename(before) == "omniopd":
            return after
    return ""


def _request() -> Request:
    environment = {name: value for name, value in os.environ.items() if name != ENV}
    return Request(list(sys.orig_argv), os.getcwd(), environment, interpreter())


def interpreter() -> list[str]:
    """The identity of the interpreter: with an equal one this process imports the same modules."""
    return [sys.version, sys.prefix, os.path.realpath(sys.executable)]


def _end_as_the_stage(connection: socket.socket) -> NoReturn:
    pid = None
    try:
        pid = word(connection)
        status = word(connection)
    except OSError:  # the server is gone, and on Linux the stage with it
        if pid:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        os._exit(KILLED)
    if status in {-number for number in PASSED_ON}:
        signal.signal(-status, signal.SIG_DFL)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def _packed(request: Request) -> bytes:
    content = json.dumps(request._asdict()).encode()
    return WORD.pack(len(content)) + content


def word(connection: socket.socket) -> int:
    """The next number. Raises ConnectionError when the other end is gone."""
    return int(WORD.unpack(exactly(connection, WORD.size))[0])


def exactly(connection: socket.socket, size: int) -> bytes:
    """Raises ConnectionError when the other end is gone."""
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise ConnectionResetError("the other end is gone")
        found += part
    return found
