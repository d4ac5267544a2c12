"""DVC remotes that go away for a while: a folder, and an S3 server of moto behind a line that can
be cut."""

import contextlib
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from tests.telling import wait_for

CHUNK = 1 << 16
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


class Folder:
    """A folder, in whose place a file stands while it is away: else DVC makes a new one."""

    def __init__(self, folder: Path) -> None:
        self.path, self.aside = folder / "remote", folder / "remote.aside"
        self.path.mkdir()
        self.environment: dict[str, str] = {}

    @property
    def settings(self) -> dict[str, str]:
        """Of the remote, in DVC's config."""
        return {"url": str(self.path)}

    def leave(self) -> None:
        self.path.rename(self.aside)
        self.path.write_text("no folder")

    def come(self) -> None:
        self.path.unlink()
        self.aside.rename(self.path)

    def end(self) -> None:
        pass


class S3:
    """moto's server, which forgets all when it ends; so its line is cut instead."""

    def __init__(self) -> None:
        self.environment = KEYS
        port = free()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env={**os.environ, **KEYS},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._line = Line(port)
        self._line.join()
        wait_for(lambda: answers(port))
        url = f"http://127.0.0.1:{port}/bucket"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"))

    @property
    def settings(self) -> dict[str, str]:
        return {"url": "s3://bucket/dvc", "endpointurl": f"http://127.0.0.1:{self._line.port}"}

    def leave(self) -> None:
        self._line.cut()

    def come(self) -> None:
        self._line.join()

    def end(self) -> None:
        self._line.cut()
        self._server.kill()
        self._server.wait()


class Line:
    """Passes on what comes to a port of its own, until it is cut: then nobody listens there."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, free()
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    def join(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            ends, self._ends = self._ends, set()
        for one in ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was cut
            while True:
                here, _ = listener.accept()
                threading.Thread(target=self._pass, args=[here], daemon=True).start()

    def _pass(self, here: socket.socket) -> None:
        to = ("127.0.0.1", self.to)
        with contextlib.suppress(OSError), here, socket.create_connection(to) as there:
            with self._lock:
                self._ends |= {here, there}
            other = {here: there, there: here}
            while True:
                for one in select.select([here, there], [], [])[0]:
                    if not (data := one.recv(CHUNK)):
                        return
                    other[one].sendall(data)


def free() -> int:
    """A port that nobody has: of those that are given to nobody who asks for any, nor Ray's own."""
    while True:
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", 20_000 + secrets.randbelow(12_000)))
            return int(one.getsockname()[1])


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
