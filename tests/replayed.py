"""Commits replayed: `python -m tests.replayed [COUNT [COMMIT]]` prints a table of reruns.

For each of the last COUNT commits up to COMMIT, how many cells of the default experiment would have
run again: by the files of code that dvc.yaml named at that time, and by what their code does. Of
cells that both plans have; those that only follow, as they read a cell that runs again, are not
counted.
"""

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML
from tabulate import tabulate

from pipeline.code_digest.files import OWN
from pipeline.code_digest.reading import digest
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.variants import of
from pipeline.plan.expand import GROUPS
from tests.project import ROOT

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


def contents(wanted: list[str]) -> Iterator[bytes]:
    """Of many blobs, in one process."""
    stream = io.BytesIO(git("cat-file", "--batch", given="\n".join(wanted).encode()))
    for _ in wanted:
        size = int(stream.readline().split()[2])
        yield stream.read(size)
        stream.readline()


def tree(commit: str) -> Tree:
    found = {p: b for p, b in blobs(commit).items() if p.split("/")[0] in OWN}
    return Tree(dict(zip(found, contents(list(found.values())), strict=True)))


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
        locks = {name: f"code/{cell['code']}.lock" for name, (_, cell) in cells(commit).items()}
        return {name: held[path] for name, path in locks.items()}
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
    variants = {one.name: one for one in (of(*cell) for cell in cells(commit).values())}
    made = digest.codes(tree(commit), variants.values())
    return {name: made[of(*cell).name].text() for name, cell in cells(commit).items()}


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
