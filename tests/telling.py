"""The project's code in a folder with stages that tell about themselves, for the fork server."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.locked import lock
from tests.project import BIN, ROOT

OMNIOPD = str(BIN / "omniopd")
PREPARE = {"task": "arithmetic", "seed": 1, "train": 20, "dev": 5, "test": 5, "digits": 2}
LOOK = """
import json, os, sys
import pipeline.edited
print(json.dumps({
    "forked": "torch" in sys.modules,
    "edited": pipeline.edited.VALUE,
    "file": pipeline.edited.__file__,
    "argv": sys.argv,
    "orig_argv": sys.orig_argv[1:],
    "path": sys.path,
    "main": [sys.modules["__main__"].__name__, sys.modules["__main__"].__spec__.name],
    "cwd": os.getcwd(),
    "environment": dict(os.environ),
    "stdin": sys.stdin.read(),
}))
"""
COMPUTE = """
import hashlib, sys
import numpy, torch
from pipeline.engines.torch_setup import start
from pipeline.config.params import Runtime
from pipeline.config import params_file
start(params_file.runtime())
draw = torch.Generator().manual_seed(0)
x = torch.randn(300, 300, generator=draw, requires_grad=True)
((x @ x).softmax(-1) ** 2).sum().backward()
y = x.detach().numpy() @ numpy.linalg.inv(x.detach().numpy())
print(torch.get_num_threads(), hashlib.sha256(x.grad.numpy().tobytes() + y.tobytes()).hexdigest())
"""
END = """
import atexit, os, signal, sys, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
how = sys.argv[1]
print("begun")
if how == "raise":
    raise ValueError("this is wrong")
elif how == "interrupt":
    raise KeyboardInterrupt
elif how.startswith("-"):
    os.kill(os.getpid(), int(how[1:]))
    time.sleep(60)
sys.exit({"none": None, "text": "error: said"}.get(how) if how.isalpha() else int(how))
"""
WAIT = """
import os, subprocess, sys, time
from pathlib import Path
other = subprocess.Popen(["sleep", "300"], start_new_session=True)
Path(sys.argv[1]).with_suffix(".part").write_text(f"{os.getpid()} {other.pid}")
Path(sys.argv[1]).with_suffix(".part").rename(sys.argv[1])
try:
    time.sleep(300)
except KeyboardInterrupt:
    other.kill()
    sys.exit(5)
"""


class Stages:
    """A folder with the project's code, some more modules of `stages` and a plan of one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name, source in {"look": LOOK, "compute": COMPUTE, "end": END, "wait": WAIT}.items():
            (folder / "stages" / f"{name}.py").write_text(source)
        self.edit(1)
        with (folder / "plan.yaml").open("w") as file:
            YAML().dump({"cells": {"prepare": {"ca": {"params": {"prepare": PREPARE}}}}}, file)
        lock(folder)

    def edit(self, value: int) -> None:
        path = self.folder / "pipeline" / "edited.py"
        path.write_text(f"VALUE = {value}\n")
        os.utime(path, (value, value))  # bytecode counts for a source of its second and size

    def start(self, server: dict[str, str], *command: str, **extra: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [OMNIOPD, "stage", *command],
            cwd=self.folder,
            env={**os.environ, **server, **extra},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, server: dict[str, str], *command: str, **extra: str) -> tuple[int, str, str]:
        process = self.start(server, *command, **extra)
        output, errors = process.communicate("asked", timeout=300)
        return process.returncode, output, errors

    def look(self, server: dict[str, str], *arguments: str, **extra: str) -> dict[str, Any]:
        status, output, errors = self.run(server, "look", *arguments, **extra)
        assert (status, errors) == (0, "")
        return dict(json.loads(output))

    def waiting(self, server: dict[str, str]) -> "tuple[subprocess.Popen[str], list[int]]":
        """A client, and the processes that it waits for: its stage and what that one started."""
        said = self.folder / "pids"
        said.unlink(missing_ok=True)
        client = self.start(server, "wait", str(said))
        wait_for(said.exists)
        stage, other = (int(pid) for pid in said.read_text().split())
        assert stage != client.pid
        return client, [stage, other]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def servers() -> list[psutil.Process]:
    """Those that this process has started."""
    found = psutil.Process().children()
    return [
        one
        for one in found
        if not gone(one.pid) and "pipeline.processes.fork_worker" in one.cmdline()
    ]


def killed(process: subprocess.Popen[Any]) -> int:
    """The status of a stage that is killed where it was forked; `process` only waits for it."""
    for server in servers():
        for one in server.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    return process.wait()
