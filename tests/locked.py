"""Files and locks for cells that a test has written by hand."""

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.code_digest import locks, variants
from pipeline.code_digest.variants import LINKS
from pipeline.core import dag_names
from pipeline.runner.dag import dag_files
from pipeline.stage import dataflow


def lock(folder: Path) -> None:
    """Write the files of all cells of a plan.yaml in `folder`, below dag/, and their locks."""
    text = (folder / "plan.yaml").read_text(encoding="utf-8")
    plan = YAML(typ="safe", pure=True).load(text)
    put(folder, plan)
    locks.write(variants.of_plan(plan), folder)


def put(folder: Path, plan: dict[str, Any]) -> None:
    """Write a file for each cell, with the lock of its code by name."""
    for group, cells in plan["cells"].items():
        if group not in LINKS:
            for key, cell in cells.items():
                cell = json.loads(json.dumps(cell))
                cell["code"] = variants.of(group, cell).name
                path = folder / dag_names.cell_file(dataflow.stage(group), key)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(dag_files.as_yaml(dataflow.content(group, key, cell)))
