"""Locks as they were when cells ran. dvc.lock knows their hashes alone, and DVC keeps no deps.

What `omniopd plan` replaces is kept in .code/ for as long as dvc.lock names it; older ones, and
those of a clone, are in the history of git.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.code_digest import locks
from pipeline.code_digest.variants import LINKS
from pipeline.core import git
from pipeline.core.dag_names import CELLS, DAG
from pipeline.core.files import replacing

KEPT = Path(".code")
MOST = 500  # versions of one lock that are looked at in git


def dependency(stage: Mapping[str, Any]) -> tuple[str, str] | None:
    """Variant and md5 of the lock that a stage of dvc.lock ran with; None where it had none."""
    for dep in stage.get("deps", ()):
        place = Path(dep["path"])
        if place.parent == locks.FOLDER and place.suffix == ".lock":
            return place.stem, dep["md5"]
    return None


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def keep(before: Iterable[str], stages: Mapping[str, Any]) -> None:
    """Keep those of the replaced texts that stages of dvc.lock ran with, and no others."""
    named = {found[1] for stage in stages.values() if (found := dependency(stage))}
    for text in before:
        if (name := md5(text)) in named:
            with replacing(KEPT / f"{name}.lock") as temporary:
                temporary.write_text(text, encoding="utf-8")
    for old in KEPT.glob("*.lock"):
        if old.stem not in named:
            old.unlink()


def text(variant: str, wanted: str) -> str | None:
    """The lock of this md5; None where it is neither here nor in git."""
    for found in _versions(variant, wanted):
        if md5(found) == wanted:
            return found
    return None


def _versions(variant: str, wanted: str) -> Iterator[str]:
    for place in (locks.path(variant), KEPT / f"{wanted}.lock"):
        if place.is_file():
            yield place.read_text(encoding="utf-8")
    # full: without it git leaves out what a branch had before a merge that went another way. m: and
    # what a merge made of two branches
    asked = ("--all", "--full-history", "-m", "--format=", "--raw", "--no-abbrev")
    listed = git.asked("log", *asked, "--", locks.path(variant))
    blobs = dict.fromkeys(line.split()[3] for line in listed.splitlines() if line[:1] == ":")
    for blob in list(blobs)[:MOST]:
        if blob.strip("0"):
            yield git.asked("cat-file", "blob", blob)


def committed_plan() -> dict[str, Any]:
    """Arms and branches of the plan as git has it last; nothing outside of a repository."""
    found = _committed(f"{DAG}/report.yaml").get("params", {})
    return {"cells": {name: found.get(name, {}) for name in LINKS}} if found else {}


def committed_cell(key: str) -> dict[str, Any]:
    """The content of a cell in the last commit; empty where it has none."""
    listed = git.asked("ls-tree", "-r", "--name-only", "HEAD", "--", DAG / CELLS).splitlines()
    place = next((path for path in listed if Path(path).name == f"{key}.yaml"), None)
    return {} if place is None else _committed(place)


def _committed(path: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    found = git.asked("show", f"HEAD:./{path}")
    return dict(YAML(typ="safe").load(found)) if found else {}
