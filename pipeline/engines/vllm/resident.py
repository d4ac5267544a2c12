"""Engines that outlive the stage that asked for them, until the run that has them is over.

    omniopd run, repro ── lending() ── vllm_worker
     └─ dvc ── stage ──── connects, has the engine's pipes, gives them back ──┘

A large teacher takes longer to load than to answer a round, and a student's engine longer to start
than to answer one: its next round's weights are put in the place of the last (`vllm_weights.py`).
Nothing that one stage asked is remembered for the next: each finds an empty prefix cache. On a GPU
an engine that is not lent sleeps: its weights wait in RAM, and others have the device.

All is done by one thread: an engine dies with the thread that started it.
"""

import contextlib
import json
import os
import selectors
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.engines.vllm import vllm_process
from pipeline.engines.vllm.vllm_process import (
    ENV,
    LOADED,
    NEW,
    REST,
    USED,
    Child,
    asked,
    write,
)
from pipeline.processes import reaper
from pipeline.processes.fork_server import WORD, for_sockets

DEVICE = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # of its environment, what it keeps to


class Loaded(NamedTuple):
    """An engine and what it was asked for by."""

    role: str
    kind: str  # the model, and vLLM's arguments but for the weights that it begins with
    devices: str
    engine: Child


@contextlib.contextmanager
def lending() -> Iterator[dict[str, str]]:
    """Have engines from when a stage asks for one; yields what to add to stages' environment.

    At the end they are gone, lent or not. Yields nothing where the system has no such sockets.
    """
    place = for_sockets()
    if place is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="omniopd-", dir=place) as folder:
        lender = _Lender(Path(folder) / "engines")
        lender.start()
        try:
            yield {ENV: str(lender.address)}
        finally:
            lender.end()


class _Lender(threading.Thread):
    def __init__(self, address: Path) -> None:
        super().__init__(daemon=True)
        self.address = address
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(128)
        self._over, self._tell_over = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._idle: list[Loaded] = []
        self._lent: dict[socket.socket, Loaded] = {}
        # a stage's own mark may be that of a cell, after which all that carries it is killed
        self._mark = {reaper.ENV: os.environ.get(reaper.ENV, "")}

    def run(self) -> None:
        for one in (self._listener, self._over):
            self._selector.register(one, selectors.EVENT_READ)
        with self._listener:
            self._serve()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._over:
                    self._end_all()
                    return
                with contextlib.suppress(OSError):  # it is gone
                    if connection is self._listener:
                        self._lend(connection.accept()[0])
                    else:
                        self._take_back(connection)

    def _end_all(self) -> None:
        """Engines end, and who still has one is told: a stage that waits for a word gets none."""
        for loaded in self._idle:
            loaded.engine.end(True)
        for connection, loaded in self._lent.items():
            loaded.engine.end(False)
            connection.close()

    def _lend(self, connection: socket.socket) -> None:
        resident, started, env = asked(connection)
        same = {key: value for key, value in started.items() if key not in LOADED}
        kind = json.dumps([resident, same], sort_keys=True)
        devices = json.dumps([env.get(key) for key in DEVICE])
        alike = (one for one in self._idle if (one.kind, one.devices) == (kind, devices))
        found = next(alike, None)
        said = NEW if found is None else USED
        if found is None:
            self._make_room(resident.role, kind)
            found = Loaded(resident.role, kind, devices, Child(started, env | self._mark))
        else:
            self._idle.remove(found)
        self._lent[connection] = found
        self._selector.register(connection, selectors.EVENT_READ)
        engine = found.engine
        files = [file.fileno() for file in (engine.asks, engine.answers, engine.log)]
        socket.send_fds(connection, [said], files)

    def _make_room(self, role: str, kind: str) -> None:
        """End idle engines of the role, but for those of the kind that is asked for."""
        for one in list(self._idle):
            if one.role == role and one.kind != kind:
                self._idle.remove(one)
                one.engine.end(True)

    def _take_back(self, connection: socket.socket) -> None:
        loaded, said = self._lent.pop(connection), b""
        self._selector.unregister(connection)
        with connection:
            with contextlib.suppress(OSError):
                said = connection.recv(1)
            match said:
                case vllm_process.IDLE:
                    write(loaded.engine.asks, json.dumps(REST))
                    if loaded.engine.answers.readline():  # it rests; else it ended
                        self._idle.append(loaded)
                case vllm_process.LOST:
                    connection.sendall(WORD.pack(loaded.engine.lost()))
                case _:  # busy, or the stage is gone
                    loaded.engine.end(False)

    def end(self) -> None:
        self._tell_over.close()
        self.join()
        self._over.close()
        self._selector.close()
