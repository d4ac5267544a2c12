"""Clones of this repository at two commits, with what runs a project in each."""

import os
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
        shim = folder / f"bin-{which}" / "omniopd"
        shim.parent.mkdir()
        shim.write_text(f"#!{sys.executable} -P\nfrom {MAINS[which]} import main\nmain()\n")
        shim.chmod(0o755)
        path = (str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"])
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(folder / f"cache-{which}"),
        }

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
        """Of each stage that ran, its command line."""
        locks = [self.folder / "dvc.lock", *self.folder.glob("dag/*/*/dvc.lock")]
        found: dict[str, str] = {}
        for lock in locks:
            stages = YAML(typ="safe").load(lock.read_text())["stages"]
            found |= {name: one["cmd"] for name, one in stages.items()}
        return found
