"""The server of pipeline.processes.fork_server and what becomes of a fork: `python -m
pipeline.processes.fork_worker FD`.

FD is a listening socket, stdin a pipe whose other end the parent holds. The server only imports:
threads of its own, torch's among them, would not survive a fork, nor would CUDA.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import threading

from pipeline.processes import program
from pipeline.processes.fork_server import (
    KILLED,
    WORD,
    Request,
    exactly,
    interpreter,
    ready,
    stage,
    word,
)

OWN = ("pipeline", "stages")  # packages that every stage imports anew
SECONDS = 10.0  # for a request to arrive whole
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# what an import, or the start of the interpreter, reads from the environment
READ_EARLY = (
    *("PYTHON", "LD_", "DYLD_", "GLIBC_", "MALLOC_", "LANG", "LC_", "TZ", "HOME", "XDG_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "DNNL_", "ONEDNN_", "RAYON_"),
    *("TORCH", "PYTORCH_", "ARROW_", "NUMPY_", "NPY_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_"),
    *("TOKENIZERS_", "SAFETENSORS_", "ACCELERATE_", "TQDM_", "PYDANTIC_", "USE_", "DISABLE_"),
)
FIRST = (
    "numpy",
    "tqdm",
    "pydantic",
    "ruamel.yaml",
    "pyarrow.parquet",
    "safetensors.torch",
    "tokenizers",
    "torch",
)
# what loading a Llama model imports, what pyarrow does where it finds it, and the store
THEN = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.conversion_mapping",
    "transformers.quantizers.auto",
    "transformers.integrations.moe",
    "pyarrow.compute",
    "pandas",
    "pyarrow.pandas_compat",
    "pydantic.type_adapter",
    "multiprocessing.synchronize",
    "platformdirs",
    "sqlalchemy.dialects.sqlite",
    "psutil",
)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # fork_server.py blocks it
    end_with_parent(signal.SIGKILL)
    if select.select([0], [], [], 0)[0]:  # it was gone before
        return
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        environment = dict(os.environ)
        preload()
        end_with_parent(0)  # from here on `serve` sees it, and ends the stages first
        ready(listener.getsockname()).touch()
        request = _Server(listener, environment).serve()
    if request is None:
        os._exit(0)
    run(request)


def end_with_parent(number: int) -> None:
    """Have the kernel send this signal when the thread that started this process ends; 0: none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def preload() -> None:
    """Import what stages import, in their order."""
    for name in FIRST:
        importlib.import_module(name)
    from pipeline.processes.lean_import import import_transformers

    import_transformers()
    for name in THEN:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else every collection of a stage would copy the pages that it shares


class _Server:
    def __init__(self, listener: socket.socket, environment: dict[str, str]) -> None:
        self.listener = listener
        self.environment = environment  # in which the imports were made
        self.stages: dict[int, socket.socket] = {}
        self.heard, self.ring = socket.socketpair()  # a byte for each signal
        self.ring.setblocking(False)
        self.heard.setblocking(False)
        signal.set_wakeup_fd(self.ring.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector = selectors.DefaultSelector()
        for end in (0, listener, self.heard):  # stdin is a pipe that our parent holds
            self.selector.register(end, selectors.EVENT_READ)

    def serve(self) -> Request | None:
        """Serve until the parent is gone and return None; in a forked stage return what to run."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    for pid in list(self.stages):
                        _kill(pid)
                    return None
                if key.fileobj is self.heard:
                    self.bury()
                elif key.fileobj is not self.listener:
                    self.pass_on(key.data)
                elif request := self.accept():
                    return request

    def accept(self) -> Request | None:
        """Fork for a client; its request in the child, None in the server."""
        connection, _ = self.listener.accept()
        connection.settimeout(SECONDS)
        given: list[int] = []
        try:
            given = socket.recv_fds(connection, 1, 3)[1]
            request = Request(**json.loads(exactly(connection, word(connection))))
            taken = len(given) == 3 and self.fits(request)
            connection.sendall(WORD.pack(taken))
        except OSError:
            taken = False
        server = os.getpid()
        pid = os.fork() if taken else None
        if pid == 0:
            self.leave(connection)
            made = {n: v for n, v in os.environ.items() if n not in self.environment}
            _become(request, given, server, made)
            return request
        for one in given:
            os.close(one)
        if pid is None:
            connection.close()
            return None
        self.stages[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ, pid)
        self.tell(connection, pid)
        return None

    def fits(self, request: Request) -> bool:
        """Whether imports would have come out the same in the client."""
        early = _read_early(request.environment) == _read_early(self.environment)
        return early and request.interpreter == interpreter()

    def leave(self, connection: socket.socket) -> None:
        """Close, in the child, what is the server's, so that clients see the server's end."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        for one in (self.listener, self.heard, self.ring, connection, *self.stages.values()):
            one.close()

    def pass_on(self, pid: int) -> None:
        """A client's signals to its stage; the end of a client is the end of its stage."""
        connection = self.stages.get(pid)
        if connection is None:  # ended a moment ago
            return
        try:
            numbers = connection.recv(64)
        except ConnectionError:
            numbers = b""
        for number in numbers:
            os.kill(pid, number)
        if not numbers:
            self.selector.unregister(connection)
            _kill(pid)

    def bury(self) -> None:
        """Tell clients how their stages ended."""
        with contextlib.suppress(BlockingIOError):
            self.heard.recv(4096)
        for pid in list(self.stages):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self.stages.pop(pid)
                with contextlib.suppress(KeyError):
                    self.selector.unregister(connection)
                self.tell(connection, os.waitstatus_to_exitcode(status))
                connection.close()

    def tell(self, connection: socket.socket, word: int) -> None:
        with contextlib.suppress(OSError):  # a client that is gone is found by `pass_on`
            connection.sendall(WORD.pack(word))


def _read_early(environment: dict[str, str]) -> dict[str, str]:
    return {n: v for n, v in environment.items() if n.startswith(READ_EARLY)}


def _kill(pid: int) -> None:
    """End a stage that is not buried yet, with all that it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for one in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    for end in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            end(pid, signal.SIGKILL)


def _become(request: Request, streams: list[int], server: int, made: dict[str, str]) -> None:
    """Make this fork the process that the client would have been.

    `made`: variables that imports have set, as they would have there.
    """
    os.setsid()
    end_with_parent(signal.SIGKILL)
    if os.getppid() != server:
        os._exit(KILLED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # SIGINT ends it as it is, until stages/__init__.py has it raise KeyboardInterrupt
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    given = os.environ.get("PYTHONPATH", "")
    relative = [p for p in given.split(os.pathsep) if not os.path.isabs(p)] if given else []
    there = {os.path.abspath(p): os.path.abspath(os.path.join(request.cwd, p)) for p in relative}
    sys.path[:] = [there.get(p, p) for p in sys.path]
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environment | made)
    sys.orig_argv[:] = request.argv
    sys.argv[:] = request.argv[1:]
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]
    importlib.invalidate_caches()


def run(request: Request) -> None:
    """Run the stage as `omniopd stage` does and end the process.

    The interpreter itself sees to messages and tracebacks. After anything else there is no need
    to take apart all that torch has built up.
    """
    status, interrupted = 0, False
    try:
        name = stage(request.argv)
        program.run(name, request.argv[request.argv.index(name) + 1 :])
    except SystemExit as end:
        if not (end.code is None or isinstance(end.code, int)):
            raise
        status = end.code or 0
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        interrupted = True
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if interrupted:  # as a shell wants to see it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
