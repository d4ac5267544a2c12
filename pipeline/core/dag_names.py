"""The names of the files below dag/ and of the stages in them; see
pipeline/runner/dag/dag_files.py."""

import re
from pathlib import Path

DAG = Path("dag")
DVC, LOCK = "dvc.yaml", "dvc.lock"
CELLS = "cells"
SHARED = "shared"  # in the place of an arm: cells that several have
REPORT = "report@report"
ROOT = Path()  # where the stages are that are written by hand
NAMED = re.compile(r"(.+)[-@](c[0-9a-f]{8})")  # of a stage that is a cell, now or before


def stage_name(cell: str) -> str:
    """How DVC calls the stage of a cell in its dvc.yaml."""
    return "report" if cell == REPORT else cell.replace("@", "-")


def cell_name(stage: str) -> str:
    """The cell that a stage of a dvc.yaml or dvc.lock is; itself for one that is none."""
    found = NAMED.fullmatch(stage)
    name = f"{found[1]}@{found[2]}" if found else stage
    return REPORT if name.partition("@")[0] == "report" else name


def address(folder: Path, cell: str) -> str:
    """A cell's stage, as DVC calls it in the project's folder."""
    return stage_name(cell) if folder == ROOT else f"{folder / DVC}:{stage_name(cell)}"


def cell_of(address: str) -> str:
    """The cell that a stage is, by how DVC calls it in the project's folder."""
    return cell_name(address.rpartition(":")[2])


def cell_file(stage: str, key: str) -> Path:
    """The file that says what a cell is."""
    return DAG / f"{key}.yaml" if stage == key else DAG / CELLS / stage / f"{key}.yaml"


def there() -> list[Path]:
    """Files below dag/ that `omniopd plan` writes, or wrote for another plan."""
    return [*DAG.glob("*.yaml"), *DAG.glob("*/*/*.yaml")]


def locks() -> list[Path]:
    """Every dvc.lock of the project, the one of the stages by hand first."""
    found = [Path(LOCK), *sorted(DAG.glob(f"*/*/{LOCK}"))]
    return [path for path in found if path.is_file()]
