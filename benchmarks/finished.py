"""Projects whose every cell ran, with a few bytes in the place of what it wrote.

DVC is the real one; a stage is a shell script that writes those bytes.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks import before
from pipeline.code_digest import locks, variants
from pipeline.core import dag_names
from pipeline.plan import expand, experiment
from pipeline.runner.dag import dag_files, lock_files, plan_files
from pipeline.stage import dataflow

ROOT = Path(__file__).parent.parent
FILES = ("config.json", "model.safetensors", "tokenizer.json")  # of a checkpoint
# files that are read of a cell that writes one folder, by stage
TABLES = {
    Path(path).parts[1]: Path(path).name
    for one in dataflow.INPUTS.values()
    for path in one.deps
    if path.startswith("data/")
}
# `omniopd stage X --cell KEY`, and `omniopd plan --check`
COMMAND = f"""#!/bin/sh
if [ "$1" = plan ]; then
  mkdir -p data
  echo '{lock_files.OK_TEXT.strip()}' > data/plan.ok
  exit
fi
while read -r path; do
  mkdir -p "${{path%/*}}"
  echo "$4 $path" > "$path"
done < "outs/$4"
"""


class Project:
    """A project in a folder, and what commands in it cost."""

    def __init__(self, folder: Path, outs: dict[str, list[str]]) -> None:
        """`outs`: files that each key writes."""
        self.folder, self.said = folder, ""
        for name in ("omniopd", "python"):  # the second as it was
            self._put(Path("bin", name), COMMAND).chmod(0o755)
        self.writes(outs)
        shutil.copy(ROOT / ".dvcignore", folder)
        shutil.copy(ROOT / ".gitignore", folder)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        self._put(Path(".dvc/config"), (ROOT / ".dvc/config").read_text())

    def writes(self, outs: dict[str, list[str]]) -> None:
        """Files that each key writes from now on."""
        for key, paths in outs.items():
            self._put(Path("outs", key), "".join(f"{path}\n" for path in paths))

    def _put(self, path: Path, text: str) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def dvc(self, *words: str) -> tuple[float, float]:
        """CPU seconds of a command of DVC, and MiB that its largest process took.

        `said` is what it printed.
        """
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.measured", sys.executable, "-m", "dvc", *words],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.said = done.stdout
        if done.returncode:
            raise RuntimeError(f"dvc {' '.join(words)}: {done.stderr[-2000:]}")
        taken = ended.ru_utime - begun.ru_utime + ended.ru_stime - begun.ru_stime
        return taken, float(done.stderr.splitlines()[-1])

    def lose(self) -> None:
        """Remove what the cells wrote."""
        shutil.rmtree(self.folder / "data")


def now(folder: Path, values: dict[str, Any], ran: bool) -> Project:
    """The project of these params, as it is now. `ran`: DVC knows that every cell ran."""
    wanted = expand.expand(experiment.of(values, "params"))
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        shutil.copy(ROOT / "dvc.yaml", folder)
        _yaml(Path("params.yaml"), values)
        for path, text in dag_files.texts(wanted):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        plan_files._folders()
        locks.write(variants.of_plan(wanted))
        stages, outs = _stages(wanted), written(wanted)
        found = Project(folder, outs)
        if ran:
            _run(outs)
            lock_files.write({}, {path: _locked(own) for path, own in stages.items()})
        return found


def written(wanted: dict[str, Any]) -> dict[str, list[str]]:
    """The files that each key of a plan writes."""
    return {
        key: list(_files(dataflow.outs(group, key, cell)))
        for group in expand.GROUPS
        for key, cell in wanted["cells"][group].items()
    }


def as_it_was(folder: Path) -> Project:
    """The default experiment at benchmarks.before.COMMIT; nothing ran."""
    folder.mkdir(parents=True)
    kept = ("dvc.yaml", "dvc.lock", "plan.yaml", "params.yaml", "pipeline", "stages")
    before.code(folder, *kept)
    known = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
    (folder / "dvc.lock").unlink()
    outs = {
        name.partition("@")[2]: list(_files(out["path"] for out in stage["outs"]))
        for name, stage in known.items()
        if "@" in name
    }
    with contextlib.chdir(folder):
        plan_files._folders()
    return Project(folder, outs)


def _files(outs: Iterable[str]) -> Iterable[str]:
    for path in map(Path, outs):
        if path.name == "checkpoint":
            yield from (f"{path}/{name}" for name in FILES)
        elif path.suffix:
            yield str(path)
        else:
            yield from (f"{path}/{name}" for name in (TABLES.get(path.parts[1], "x"), "run.json"))


def _stages(wanted: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Every stage by the dvc.lock that it is in."""
    found: dict[Path, dict[str, Any]] = {}
    by_hand = plan_files._by_hand()
    for cell, folder in dag_files.folders(wanted).items():
        name, path = dag_names.stage_name(cell), folder / dag_names.LOCK
        one = by_hand[name] if folder == dag_names.ROOT else dag_files.stage(wanted, folder, cell)
        found.setdefault(path, {})[name] = one
    found[Path(dag_names.LOCK)]["plan"] = by_hand["plan"]
    return found


def _run(outs: dict[str, list[str]]) -> None:
    """What the script of a stage does, for all."""
    for key, paths in outs.items():
        for path in map(Path, paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{key} {path}\n")
    Path("data/plan.ok").write_text(lock_files.OK_TEXT)


def _locked(stages: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "cmd": one["cmd"],
            **{kind: [_entry(path) for path in sorted(one[kind])] for kind in ("deps", "outs")},
        }
        for name, one in sorted(stages.items())
    }


def _entry(path: str) -> dict[str, Any]:
    """What dvc.lock has of a file or folder, which goes into the cache as well."""
    place = Path(path)
    if place.is_dir():
        files = sorted(x for x in place.rglob("*") if x.is_file())
        listed = [
            {"md5": _stored(x.read_bytes()), "relpath": x.relative_to(place).as_posix()}
            for x in files
        ]
        md5 = _stored(json.dumps(listed, sort_keys=True).encode(), ".dir")
        size = sum(x.stat().st_size for x in files)
        return {"path": path, "hash": "md5", "md5": md5, "size": size, "nfiles": len(files)}
    data = place.read_bytes()
    return {"path": path, "hash": "md5", "md5": _stored(data), "size": len(data)}


def _stored(data: bytes, ending: str = "") -> str:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest() + ending
    place = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o444)
    return md5


def _yaml(path: Path, values: dict[str, Any]) -> None:
    with path.open("w") as file:
        YAML(typ="safe").dump(values, file)
