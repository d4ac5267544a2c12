"""A scratch project: the code and the DAG of this one with its own params, cache and store."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.code_digest import files, locks, variants
from pipeline.code_digest.reading import digest
from pipeline.code_digest.reading.closure import Reader
from pipeline.code_digest.reading.source import Tree
from pipeline.core import dag_names, dvc_objects
from pipeline.plan import expand, experiment
from pipeline.runner.dag import lock_files

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "tests" / "miniature.yaml"
BIN = Path(sys.executable).parent
# the same for every project, so that one server can fork the stages of all
PYTHONPATH = f"{ROOT / 'tests' / 'traced'}{os.pathsep}."


class Project:
    """Commands in a scratch folder, with an empty judgment store of its own."""

    def __init__(self, folder: Path, params: Path = MINIATURE) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pipeline", "stages", "extensions"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        shutil.copy(params, folder / "params.yaml")
        (folder / "data").mkdir()

    def copy(self, folder: Path) -> "Project":
        """The same project, artifacts, cache and store included, in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        (folder / "params.before").unlink(missing_ok=True)
        shutil.rmtree(folder / ".loaded", ignore_errors=True)  # what ran there
        return Project.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """The project that is there already."""
        found = cls.__new__(cls)
        found.folder = folder
        return found

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": PYTHONPATH,
            "JUDGMENTS_URL": f"sqlite:///{self.folder / 'judgments.sqlite'}",
            **extra,
        }

    def run(
        self, *command: str, check: bool = True, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=1500,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
        return done

    def stopped(self, at: str, *command: str) -> str:
        """What a command printed that was interrupted when a line had `at` in it."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if re.search(at, line):
                process.send_signal(signal.SIGINT)
                break
        said += process.stdout
        assert process.wait() == 130, "".join(said)
        return "".join(said)

    def edit(self, **changes: Any) -> None:
        """Set keys of params.yaml, named with __ for a dot: train__lr=1e-4."""
        path = self.folder / "params.yaml"
        if not (self.folder / "params.before").exists():
            shutil.copy(path, self.folder / "params.before")
        yaml = YAML()
        params = yaml.load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            block = params
            for parent in parents:
                block = block[parent]
            block[last] = value
        with path.open("w") as file:
            yaml.dump(params, file)

    def revert(self) -> None:
        """params.yaml as it was before the first edit of this copy, to the letter."""
        shutil.copy(self.folder / "params.before", self.folder / "params.yaml")

    def repro(self) -> list[str]:
        """Plan and `dvc repro`; the names of the cells that ran, in order."""
        return ran(self.run("omniopd", "repro").stdout)

    def flow(self) -> list[str]:
        """The same by the flow, two cells at a time; in the order in which they began."""
        return ran(self.run("omniopd", "run", "--parallel", "2").stdout)

    def plan(self) -> dict[str, Any]:
        """What params.yaml means now."""
        with contextlib.chdir(self.folder):
            return expand.expand(experiment.load())

    def locked(self) -> dict[str, Any]:
        """What DVC knows of each cell, by its name."""
        with contextlib.chdir(self.folder):
            return lock_files.entries(lock_files.read())

    def files(self, name: str) -> dict[str, str]:
        """MD5 of each file that a cell wrote, as DVC has it, but of its run.json."""
        with contextlib.chdir(self.folder):
            outs = {
                out["path"]: dvc_objects.Out(out["md5"], name)
                for out in self.locked()[name]["outs"]
            }
            found = dvc_objects.files(dvc_objects.cache(), outs)
            return {path: md5 for path, md5, _ in found if Path(path).name != "run.json"}

    def address(self, name: str) -> str:
        """How DVC calls a cell of the plan that dag/ has."""
        stage = dag_names.stage_name(name)
        places = self.folder.glob(f"{dag_names.DAG}/*/*/{dag_names.DVC}")
        path = next(path for path in places if f"\n  {stage}:\n" in path.read_text())
        return dag_names.address(path.parent.relative_to(self.folder), name)

    def yaml(self, name: str | Path) -> Any:
        return YAML(typ="safe").load((self.folder / name).read_text())

    def loaded(self, name: str) -> set[str]:
        """The project's own files that a cell's stage loaded when it last ran here."""
        _, _, key = name.partition("@")
        files = set(json.loads((self.folder / ".loaded" / key).read_text()))
        # these only decide whether and in which process a stage runs
        files = {file for file in files if not file.startswith(MACHINERY)}
        return files | {child for file, child in CHILDREN.items() if file in files}

    def reached(self, name: str) -> set[str]:
        """The files of code that a cell's lock says it may load."""
        group, _, key = name.partition("@")
        cell = self.yaml(dag_names.cell_file(group.partition("-")[0], key))
        variant = variants.of(group, cell)
        tree = Tree(files.read(self.folder, self.folder))
        code = digest.code(Reader(tree), variant)
        lock = (self.folder / locks.path(variant.name)).read_text()
        assert lock == locks.HEADER + code.text()
        return {tree.names[module] for module in code.modules}

    def cell(self, arm: str, round_: int, stage: str, seed: int = 0) -> Path:
        """Folder of the cell that an arm uses."""
        arms = self.plan()["cells"]["arms"]
        key = arms[arm][f"seed-{seed}"][f"round-{round_}"][stage]
        return self.folder / (key if "/" in key else f"data/{stage}/{key}")


MACHINERY = (  # code that is part of no lock, as it never changes what a stage writes
    *("pipeline/code_digest/", "pipeline/processes/program.py", "pipeline/core/extensions.py"),
    "pipeline/commands/entry.py",
    *(
        "pipeline/processes/launch/",
        "pipeline/processes/fork_server.py",
        "pipeline/processes/fork_worker.py",
        "pipeline/processes/cell_log.py",
        "pipeline/training/trackers/",
        "pipeline/stage/ahead.py",
        "stages/__init__.py",
    ),
)
CHILDREN = {  # by the file that starts them: what their processes alone load
    "pipeline/training/launcher.py": "pipeline/training/fsdp.py",
    "pipeline/engines/vllm/engine.py": "pipeline/engines/vllm/vllm_worker.py",
}


def lapse(store: Path) -> None:
    """Let the claims of a killed process lapse now instead of in half a minute."""
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        database.execute("update claims set expires_at = 0")


def ran(output: str) -> list[str]:
    """Names of the cells that DVC ran, from its own lines; the flow has the name before each."""
    found = re.finditer(r"^(?:\S+ \| )?Running stage '([^']+)'", output, re.MULTILINE)
    return [dag_names.cell_of(match[1]) for match in found]


def main() -> None:
    """`python -m tests.project smoke`: run the miniature in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "smoke")
        env = project.environment()
        done = subprocess.run(["omniopd", "repro"], cwd=project.folder, env=env, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        sys.stdout.write((project.folder / "data/report/results.md").read_text())


if __name__ == "__main__":
    main()
