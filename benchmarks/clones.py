"""Clones of this repository at two commits, with what runs a project in each."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.before import COMMIT, HERE

MAINS = {"now": "pipeline.commands.entry", "before": "pipeline.cli"}  # of the command omniopd
COMMITS = {"now": "HEAD", "before": COMMIT}
Params = dict[str, Any]


class Clone:
    """`which` of COMMITS, in a folder; nothing of it has run, and it has caches of its own."""

    def __init__(self, folder: Path, which: str) -> None:
        self.folder, self.which = folder / which, which
        subprocess.run(["git", "clone", "-q", HERE, self.folder], check=True)
        subprocess.run(["git", "checkout", "-q", COMMITS[which]], cwd=self.folder, check=True)
        programs = self._programs(folder / f"venv-{which}")
        self.python = str(programs / "python")
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(folder / f"cache-{which}"),
        }

    def _programs(self, venv: Path) -> Path:
        """Those of a virtual environment with the packages of this one and this clone's omniopd:
        both put the folder of their Python first on PATH."""
        own = Path(sys.prefix)
        (venv / "bin").mkdir(parents=True)
        shutil.copy(own / "pyvenv.cfg", venv)
        (venv / "lib").symlink_to(own / "lib")
        for program in (own / "bin").iterdir():
            if program.name != "omniopd":
                (venv / "bin" / program.name).symlink_to(program)
        shim = venv / "bin" / "omniopd"
        python = venv / "bin" / "python"
        shim.write_text(f"#!{python} -P\nfrom {MAINS[self.which]} import main\nmain()\n")
        shim.chmod(0o755)
        return venv / "bin"

    def edit(self, change: Callable[[Params], None]) -> None:
        yaml, path = YAML(), self.folder / "params.yaml"
        params = yaml.load(path.read_text())
        change(params)
        with path.open("w") as file:
            yaml.dump(params, file)

    def run(self, *command: str) -> None:
        """Raises RuntimeError with what it said last."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{self.which}, {command}: {(done.stdout + done.stderr)[-3000:]}")

    def commands(self) -> dict[str, str]:
        """Of each stage that ran here, its command line; locks in git are of cells that did not."""
        locks = [self.folder / "dvc.lock", *self.folder.glob("dag/*/*/dvc.lock")]
        found: dict[str, str] = {}
        for lock in locks:
            stages = YAML(typ="safe").load(lock.read_text())["stages"]
            found |= {name: one["cmd"] for name, one in stages.items()}
        made = {path.name for path in self.folder.glob("data/*/*")}
        return {name: cmd for name, cmd in found.items() if name[-9:] in made}
