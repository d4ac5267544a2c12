"""A Ray cluster: a head that is started here, or one that exists; and what the head says to all.

Whoever reaches Ray's ports runs code. So token authentication is on, with the token that
RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH names, or with Ray's own file, which the head makes.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError, short
from pipeline.processes import fork_server, subprocesses
from pipeline.runner.workers.ray_start import keep_loopback

NAMESPACE = "omniopd"
RECORD = b"record"  # key of what the head says, in Ray's own store
TOKEN = Path("~/.ray/auth_token")  # where Ray itself looks
STORE_BYTES = 128 << 20  # of Ray's objects: a cell's files travel through DVC

LOOK_SECONDS = 0.2
START_SECONDS = 120.0  # that a head may take to start
TRIES = 5  # of a head: Ray gives its agents, which are Python, few seconds to start
# ports of a node's agents. Were they chosen by these, the node would wait for it and end itself
# where they, which are Python, start slowly
AGENTS = (
    *("runtime-env-agent-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port"),
    "metrics-export-port",
)
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
WANTED = "wanted HOST:PORT, as the head says it. Correct it."


def package() -> None:
    """Raises UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "found no package ray, wanted it for workers. Run `pip install '.[ray]'` here."
        )


def environment(make: bool) -> None:
    """Set what Ray's processes read; `make` a token where there is none. Raises UserError."""
    package()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise UserError(
            f"RAY_AUTH_MODE: found {short(os.environ['RAY_AUTH_MODE'])}, wanted token: whoever "
            "reaches Ray's ports runs code. Unset it."
        )
    os.environ.update(SETTINGS)
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or path.is_file():
        return
    if not make:
        raise UserError(
            f"{path}: not found, wanted the head's token. Copy the file from the head, or name it "
            "in RAY_AUTH_TOKEN_PATH."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(secrets.token_hex(32))


def parsed(address: str) -> tuple[str, int]:
    """Raises UserError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"found address {short(address)}, {WANTED}")
    return host, int(port)


def answers(address: str) -> bool | None:
    """Whether somebody listens there; None where it cannot be told, as the network is away."""
    try:
        with socket.create_connection(parsed(address), timeout=2):
            return True
    except ConnectionRefusedError:
        return False
    except socket.gaierror as error:
        raise UserError(f"found address {short(address)} ({error}), {WANTED}") from error
    except OSError:
        return None


class Node(NamedTuple):
    """A Ray node that was started here."""

    process: "subprocess.Popen[bytes]"  # with all of Ray's as its children
    folder: Path

    def said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8", errors="replace")

    def started(self) -> bool:
        return "Ray runtime started" in self.said()

    def tail(self) -> str:
        """The last that it said."""
        text = self.said()
        return short(" ".join(text.strip().splitlines()[-3:]) or "nothing", 400)


@contextmanager
def node(ip: str, *words: str, environment: Mapping[str, str] | None = None) -> Iterator[Node]:
    """A Ray node, in the block; `environment`: what its processes have beside ours."""
    folder = tempfile.mkdtemp(prefix="ray-", dir=fork_server.for_sockets())
    command = [sys.executable, "-P", "-m", "pipeline.runner.workers.ray_start", "start", "--block"]
    command += ["--node-ip-address", ip, "--temp-dir", folder, "--disable-usage-stats"]
    command += ["--object-store-memory", str(STORE_BYTES), "--include-log-monitor", "false"]
    for port, free in zip(AGENTS, _free(ip, len(AGENTS)), strict=True):
        command += [f"--{port}", str(free)]
    process = None
    try:
        with Path(folder, "said").open("wb") as said:
            process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                process_group=0,
                env={**os.environ, **(environment or {})},
            )
        yield Node(process, Path(folder))
    finally:
        if process is not None:
            subprocesses.end([process.pid])
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(folder):  # one of Ray's wrote its last line meanwhile
            time.sleep(LOOK_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)


def _free(ip: str, count: int) -> list[int]:
    """Ports there that nobody listens at."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind((ip, 0))
        return [int(one.getsockname()[1]) for one in found]


@contextmanager
def head(address: str) -> Iterator[Node]:
    """A Ray head that listens there, in the block. Raises UserError."""
    host, port = parsed(address)
    if answers(address):
        raise UserError(
            f"{address}: found somebody who listens there, wanted a free port for Ray. Use another "
            f"--listen, or `--on ray:{address}` if it is a cluster of yours."
        )
    words = ["--head", "--port", str(port), "--include-dashboard", "false"]
    words += ["--num-cpus", "1", "--num-gpus", "0"]
    with ExitStack() as kept:
        for left in range(TRIES - 1, -1, -1):
            with ExitStack() as tried:
                made = tried.enter_context(node(host, *words))
                limit = time.monotonic() + START_SECONDS
                while made.process.poll() is None and not made.started():
                    if time.monotonic() > limit:
                        break
                    time.sleep(LOOK_SECONDS)
                if made.process.poll() is None and made.started():
                    kept.push(tried.pop_all())
                    break
                if not left:
                    raise UserError(
                        f"Ray did not start at {address}; it said {made.tail()}. Correct that."
                    )
        yield made


@contextmanager
def existing() -> Iterator[None]:
    """In the place of `head` where a cluster is there already."""
    yield


@contextmanager
def connected(address: str, own: Node | None) -> Iterator[Any]:
    """The module ray, connected to a cluster, of which this machine is a node. Raises UserError.

    `own`: the node that was started here. Other nodes of this machine may end before us.
    """
    import ray

    keep_loopback()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            _node_ip_address=parsed(address)[0] if own else None,
            _temp_dir=str(own.folder) if own else None,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{address}: found no Ray cluster that this machine is a node of "
            f"({error.__cause__ or error}). Run this on a node of it, or leave the address out and "
            "a head is started."
        ) from error
    signal.signal(signal.SIGTERM, handler)  # Ray's own would end us without our clean end
    try:
        yield ray
    finally:
        ray.shutdown()


def told(address: str) -> Any:
    """A client of the store in which the head's record lies."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=address)
