"""Where a copy of the vLLM engine comes from: a child of this process, or one that is lent.

Both are used through their input, their answers and their log; who started it ends it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any, Literal, NamedTuple, Protocol

from pipeline.processes import subprocesses
from pipeline.processes.fork_server import WORD, exactly, word

WORKER = "pipeline.engines.vllm.vllm_worker"  # the module that such a process runs
PROCESSOR = "pipeline.engines.vllm.vllm_processor:Processor"  # that vLLM loads there
ENV = "OMNIOPD_ENGINES"  # path of the socket where pipeline/engines/vllm/resident.py lends engines
CLOSING_SECONDS = 30.0  # for an idle engine to end by itself
TAIL = 60  # lines of the engine's own log that an error shows
SHOWN = 1 << 16  # bytes, where they are long
REST = "rest"  # to an engine that nobody has, until it is asked again
WEIGHTS = "weights"  # beside vLLM's own arguments: the checkpoint that they begin with
# what of the arguments says which weights, and not which engine
LOADED = ("model", WEIGHTS)
NEW, USED = b"\0", b"\1"  # how one is lent
BUSY, IDLE, LOST = b"\0", b"\1", b"\2"  # how a lent engine is given back


class Resident(NamedTuple):
    """What a lent engine is asked for by, beside vLLM's arguments."""

    role: Literal["student", "teacher"]  # an engine of each may wait for its next stage
    model: str  # a teacher's fingerprint; of a student, whose weights change, its shape


class Process(Protocol):
    asks: IO[str]  # to the engine, a line each
    answers: IO[str]  # from it
    log: IO[str]  # what it writes apart from answers
    used: bool  # another stage had it before

    def end(self, idle: bool) -> None:
        """Have no more to do with it. `idle`: it has answered all that it was asked."""
        ...

    def lost(self) -> int:
        """Its exit status, after its answers have ended by themselves."""
        ...


class Child:
    """A process of its own, with vLLM in it."""

    used = False

    def __init__(self, started: Mapping[str, Any], env: Mapping[str, str]) -> None:
        answers, out = os.pipe()
        self.log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(out)],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            pass_fds=[out],
            text=True,
            encoding="utf-8",
        )
        os.close(out)
        assert self._process.stdin is not None
        self.asks: IO[str] = self._process.stdin
        self.answers: IO[str] = os.fdopen(answers, encoding="utf-8")
        write(self.asks, json.dumps(started))

    def end(self, idle: bool) -> None:
        """An idle engine ends at the end of its input; a busy one, with its workers, is made to."""
        self._wait(CLOSING_SECONDS if idle else 0.0)

    def lost(self) -> int:
        return self._wait(CLOSING_SECONDS)

    def _wait(self, seconds: float) -> int:
        with contextlib.suppress(OSError):
            self.asks.close()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            subprocesses.end([self._process.pid])
            return self._process.wait()


class Lent:
    """An engine of the process that started this stage, for as long as the connection stands."""

    def __init__(
        self, address: str, resident: Resident, started: Mapping[str, Any], env: Mapping[str, str]
    ) -> None:
        """Raises OSError if nobody lends engines at `address`."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(address)
        content = json.dumps([resident, dict(started), dict(env)]).encode()
        self._connection.sendall(WORD.pack(len(content)) + content)
        said, files, *_ = socket.recv_fds(self._connection, 1, 3)
        if not files:
            raise ConnectionResetError("no engine came")
        self.used = said == USED
        asks, answers, log = files
        self.asks: IO[str] = os.fdopen(asks, "w", encoding="utf-8")
        self.answers: IO[str] = os.fdopen(answers, encoding="utf-8")
        self.log: IO[str] = os.fdopen(log, encoding="utf-8", errors="replace")

    def end(self, idle: bool) -> None:
        """Give it back, and wait until it leaves the device to others; a busy one is ended by whom
        it belongs to."""
        with contextlib.suppress(OSError), self._connection as connection:
            connection.sendall(IDLE if idle else BUSY)
            connection.recv(1)

    def lost(self) -> int:
        """Raises OSError if whom it belongs to is gone too."""
        self._connection.sendall(LOST)
        return word(self._connection)


def start(started: Mapping[str, Any], env: Mapping[str, str], resident: Resident | None) -> Process:
    """An engine with vLLM's arguments `started`; see Lent for `resident`, None is a child."""
    address = os.environ.get(ENV)
    if resident is not None and address:
        with contextlib.suppress(OSError):
            return Lent(address, resident, started, env)
    return Child(started, env)


def write(to: IO[str], text: str) -> None:
    with contextlib.suppress(OSError):  # it ended: the reader of its answers will say so
        to.write(text + "\n")
        to.flush()


def tail(log: IO[str]) -> list[str]:
    """The last lines of what an engine wrote, who may write on."""
    size = os.fstat(log.fileno()).st_size
    last = os.pread(log.fileno(), SHOWN, max(size - SHOWN, 0))
    return last.decode(errors="replace").splitlines()[-TAIL:]


def asked(connection: socket.socket) -> tuple[Resident, dict[str, Any], dict[str, str]]:
    """Read what a Lent wrote. Raises OSError if it is gone."""
    size = word(connection)
    resident, started, env = json.loads(exactly(connection, size))
    return Resident(*resident), started, env
