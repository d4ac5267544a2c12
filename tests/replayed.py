"""Commits replayed: `python -m tests.replayed [COUNT [COMMIT]]` prints a table of reruns.

For each of the last COUNT commits up to COMMIT, how many cells of the default experiment would have
run again: by files of code, and by what their code does. Files are those that dvc.yaml named of a
cell; since it names none, those that the cell's lock reads. Locks are made by the code of the
commit itself. Of cells that both plans have; those that only follow, as they read a cell that runs
again, are not counted.
"""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML
from tabulate import tabulate

from pipeline.code_digest.files import OWN, PACKAGES
from pipeline.plan.expand import GROUPS
from tests.project import ROOT

DIGESTS = {f"pipeline/{name}/reading/digest.py" for name in ("behaviour", "code_digest")}
# prints the lock of each cell, and the files that it reads; by the modules' names then and now
LOCKS = """
import json, sys
from pathlib import Path
try:
    from pipeline.code_digest import files, variants
    from pipeline.code_digest.reading import closure, digest, source
except ImportError:
    from pipeline.behaviour import files, variants
    from pipeline.behaviour.reading import closure, digest, source
cells = json.load(sys.stdin)
tree = source.Tree(files.read(Path()))
codes = {}
for name, (group, cell) in cells.items():
    variant = variants.of(group, cell)
    if variant.name not in codes:
        code = digest.code(closure.Reader(tree), variant)
        codes[variant.name] = code.text(), sorted(tree.names[module] for module in code.modules)
    cells[name] = codes[variant.name]
json.dump(cells, sys.stdout)
"""
CELL = re.compile(r"dag/(.*/)?(c[0-9a-f]{8}|report)\.yaml")


def git(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, input=given, stdout=-1, check=True)
    return done.stdout


@cache
def blobs(commit: str) -> dict[str, str]:
    """Hash of each file of a commit, by its path."""
    lines = git("ls-tree", "-r", commit).decode().splitlines()
    return {line.partition("\t")[2]: line.split()[2] for line in lines}


@cache
def content(blob: str) -> bytes:
    return git("cat-file", "blob", blob)


def yaml(commit: str, path: str) -> Any:
    return YAML(typ="safe").load(content(blobs(commit)[path]))


@cache
def locks(commit: str) -> dict[str, tuple[str, list[str]]]:
    """The lock of each cell and the files that it reads, by the cell's name.

    Raises SystemExit for a commit whose code makes no locks.
    """
    if not blobs(commit).keys() & DIGESTS:
        raise SystemExit(
            f"{commit[:7]}: found no code that makes locks, wanted one of {sorted(DIGESTS)}. "
            "Replay fewer commits; LOG.md has the table of earlier ones."
        )
    packed = git("archive", commit, *PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(folder, filter="data")
        done = subprocess.run(
            [sys.executable, "-c", LOCKS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
            input=json.dumps(cells(commit)),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    return dict(json.loads(done.stdout))


def cells(commit: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Group and content of each cell of the default plan, by its name."""
    if "plan.yaml" in blobs(commit):  # of the time before each cell had a file
        groups = yaml(commit, "plan.yaml")["cells"]
        return {f"{g}@{k}": (g, c) for g in GROUPS for k, c in (groups.get(g) or {}).items()}
    files = [path for path in blobs(commit) if CELL.fullmatch(path)]
    found = {PurePath(path).stem: yaml(commit, path) for path in files}
    return {f"{cell['group']}@{key}": (cell["group"], cell) for key, cell in found.items()}


@cache
def by_file(commit: str) -> dict[str, str]:
    """What the files of code that dvc.yaml names of each cell hold, by the cell's name."""
    dag, held = yaml(commit, "dvc.yaml")["stages"], blobs(commit)
    found = {}
    if "plan.yaml" not in held:
        read = {name: files for name, (_, files) in locks(commit).items()}
        return {name: repr([(x, held[x]) for x in own]) for name, own in read.items()}
    for name, (group, cell) in cells(commit).items():
        deps = []
        for dep in dag[group]["do"]["deps"]:
            path = re.sub(r"\$\{item\.(\w+)\}", lambda m, c=cell: str(c.get(m[1])), dep)
            if path.split("/")[0] in (*OWN, "code"):
                inside = [p for p in held if p == path or p.startswith(f"{path}/")]
                deps += [(p, held[p]) for p in sorted(inside)]
        found[name] = repr(deps)
    return found


@cache
def by_digest(commit: str) -> dict[str, str]:
    """What the code of each cell does, by the cell's name."""
    return {name: lock for name, (lock, _) in locks(commit).items()}


def main() -> None:
    count, last = (*sys.argv[1:], *("30", "HEAD")[len(sys.argv) - 1 :])
    rows = []
    for commit in git("rev-list", f"-{count}", last).decode().split():
        before = git("rev-parse", f"{commit}^").decode().strip()
        both = cells(commit).keys() & cells(before).keys()
        reruns = [
            sum(found(commit)[name] != found(before)[name] for name in both)
            for found in (by_file, by_digest)
        ]
        subject = git("log", "-1", "--format=%s", commit).decode().strip()
        rows.append([commit[:7], subject[:64], len(both), *reruns])
    rows.append(["all", "", *(sum(row[i] for row in rows) for i in (2, 3, 4))])
    headers = ["commit", "subject", "cells", "run again by file", "by digest"]
    print(tabulate(rows, headers, tablefmt="github"))  # noqa: T201


if __name__ == "__main__":
    main()
