"""`omniopd report --partial`: the report of what is through, while the rest of it runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.core import yaml_files
from pipeline.core.dag_names import cell_file
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.stage.run_records import Arms, folder

OUT = Path("data/partial")
KEY = "partial"  # of the cell's file, which is there as long as the stage runs


def draw() -> Path:
    """The page of a report of the arms and seeds of which every cell is through.

    Raises UserError where there are none, and where the report's stage does.
    """
    path = cell_file("report", "report")
    if not path.is_file():
        raise UserError(f"{path}: not there, wanted the plan. Run `omniopd plan`.")
    content = yaml_files.load(path)
    params = content["params"]
    kept, out = through(params["arms"])
    if "base" not in kept or len(kept) == 1:
        raise UserError(
            "report --partial: found no arm of which a seed is through, and the base student "
            f"evaluated; not through are {', '.join(out)}. Try later; `omniopd status --watch` "
            "shows the losses meanwhile."
        )
    note = f"Partial: these are not through and left out: {', '.join(out)}."
    params |= {"arms": kept, "branches": {}, "notes": [note, *params["notes"]]}
    params["settings"] = {arm: own for arm, own in params["settings"].items() if arm in kept}
    _stage(content)
    return OUT / "index.html"


def through(arms: Arms) -> tuple[Arms, list[str]]:
    """The seeds of each arm of which every cell is there; the others by name."""
    kept: Arms = {}
    out = []
    for arm, seeds in arms.items():
        for seed, rounds in seeds.items():
            if all(_there(stage, key) for cells in rounds.values() for stage, key in cells.items()):
                kept.setdefault(arm, {})[seed] = rounds
            else:
                out.append(f"{arm} {seed}")
    return kept, out


def _there(stage: str, key: str) -> bool:
    found = Path(key) if stage == "policy" else folder(stage, key)
    return (found / "run.json").is_file()


def _stage(content: dict[str, Any]) -> None:
    path = cell_file("report", KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:  # JSON is YAML
        temporary.write_text(json.dumps(content), encoding="utf-8")
    stage = ("stage", "report", "--cell", KEY, "--out", str(OUT))
    try:
        done = subprocess.run([sys.executable, "-m", "pipeline.commands.entry", *stage])
    finally:
        path.unlink(missing_ok=True)
    if done.returncode:
        raise UserError("report --partial: the report stopped; what it said is above.")
