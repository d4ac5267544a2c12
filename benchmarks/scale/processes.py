"""CPU seconds and memory of commands and of their children."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.finished import ROOT


def measured(
    words: list[str], folder: Path, text: str | None = None, path: str = ""
) -> dict[str, float]:
    """CPU s, s by the clock and MiB of the largest process of a command in a folder.

    `text` goes to its standard input; `path` before PATH. Raises RuntimeError where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]
    begun, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measured", *words],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout[-1000:]} {done.stderr[-2000:]}")
    cpu = ended.ru_utime - begun.ru_utime + ended.ru_stime - begun.ru_stime
    return {"cpu": cpu, "wall": wall, "mib": float(done.stderr.splitlines()[-1])}


def dvc(folder: Path, *words: str) -> dict[str, float]:
    """The same of a command of DVC."""
    return measured([sys.executable, "-m", "dvc", *words], folder, path=str(folder / "bin"))
