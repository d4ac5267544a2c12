"""A head and workers on this host, each in a folder of its own with its own DVC cache."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from tests.project import BIN, ROOT
from tests.runner.workers import sleeping
from tests.runner.workers.remotes import S3, Folder, free
from tests.telling import gone, wait_for

QUICK = {  # a node that stands still is given up after some seconds
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "8000",
    "RAY_health_check_failure_threshold": "3",
}
MADE = ("out", "cache", "report.txt", "dvc.lock", "runs", "cards", "tmp")  # by a run


class Hosts:
    """Folders `head` and `worker-N` in `folder`, of which each stands for a machine."""

    def __init__(self, folder: Path, s3: bool = False) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{free()}"
        self.head = folder / "head"
        self.remote = S3() if s3 else Folder(folder)
        (folder / "token").write_text(secrets.token_hex(32))
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            **self.remote.environment,
        }

    @property
    def sleeps(self) -> list[str]:
        """The head's command for cells that sleep."""
        return [sys.executable, "-m", "tests.runner.workers.sleeping", self.address]

    def sleep(
        self,
        seconds: float,
        reads: dict[str, list[str]],
        runtime: str = "{device: cpu}",
        work: str = "sleep",
    ) -> None:
        """Make the head a project of cells that sleep, or do `work`, with the remote."""
        self.head.mkdir()
        words = ["dvc", "init", "--no-scm", "-q"]
        subprocess.run(words, cwd=self.head, env=self.environment, check=True)
        settings = "".join(f"    {k} = {v}\n" for k, v in self.remote.settings.items())
        with (self.head / ".dvc" / "config").open("a") as config:
            config.write(f"    remote = all\n['remote \"all\"']\n{settings}")
        sleeping.write(self.head, seconds, reads, runtime, work)

    def start(self, name: str, *command: str) -> "subprocess.Popen[str]":
        with (self.folder / f"{name}.said").open("a") as said:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder / name,
                env=self.environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        return self.processes[name]

    def run(self, *command: str) -> "subprocess.Popen[str]":
        """The head's run; by default of the cells that sleep."""
        return self.start("head", *(command or self.sleeps))

    def worker(self, number: int, *words: str) -> "subprocess.Popen[str]":
        name = f"worker-{number}"
        if not (self.folder / name).exists():
            shutil.copytree(self.head, self.folder / name, ignore=self._unshared, symlinks=True)
        return self.start(name, "omniopd", "worker", "--join", self.address, *words)

    def _unshared(self, folder: str, names: list[str]) -> set[str]:
        """What a clone does not get: what ran, in the project's folder and in .dvc."""
        made = {*MADE, "data"} if Path(folder) in (self.head, self.head / ".dvc") else ()
        return {"__pycache__"} | set(made)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.said").read_text()

    def wait(self, name: str, *texts: str) -> None:
        wait_for(lambda: all(one in self.said(name) for one in texts), 400)

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(60)
        self.remote.end()

    def left(self) -> list[psutil.Process]:
        """Processes that know of this cluster's token."""
        found = []
        for process in psutil.process_iter():
            try:
                given = process.environ().get("RAY_AUTH_TOKEN_PATH")
            except psutil.Error:
                continue
            if given == str(self.folder / "token") and not gone(process.pid):
                found.append(process)
        return found


def alone(hosts: Hosts) -> Path:
    """The same project, brought up to date by plain `dvc repro`."""
    folder = hosts.folder / "alone"
    shutil.copytree(hosts.head, folder, ignore=shutil.ignore_patterns(*MADE))
    subprocess.run(["dvc", "repro", "-q"], cwd=folder, env=hosts.environment, check=True)
    return folder


def locks(folder: Path) -> Any:
    """Of each stage all that DVC knows; they stand in the order in which they ended."""
    paths = [folder / "dvc.lock", *folder.glob("dag/*/*/dvc.lock")]
    yaml = YAML(typ="safe")
    return {str(path.relative_to(folder)): yaml.load(path.read_text()) for path in paths}


def outs(folder: Path) -> dict[str, bytes]:
    paths = [folder / "report.txt", *(folder / "out").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def listening(processes: Sequence[psutil.Process]) -> set[str]:
    """Addresses at which any of them takes connections."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # of a cell that has ended since
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    found.add(one.laddr.ip)
    return found
