"""`omniopd report --partial`: the report of what is through, while the rest of it runs."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.core import yaml_files
from pipeline.core.dag_names import DAG, cell_file
from pipeline.core.errors import UserError
from pipeline.stage.run_records import Arms, folder

OUT = Path("data/partial")
PLAN = cell_file("report", "report")


def draw() -> Path:
    """The page of a report of the arms and seeds of which every cell is through.

    Raises UserError where there are none, and where the report's stage does.
    """
    if not PLAN.is_file():
        raise UserError(f"{PLAN}: not there, wanted the plan. Run `omniopd plan`.")
    content = yaml_files.load(PLAN)
    params = content["params"]
    kept, out = through(params["arms"])
    if "base" not in kept or len(kept) == 1:
        raise UserError(
            "report --partial: found no arm of which a seed is through, and the base student "
            f"evaluated; not through are {', '.join(out)}. Try later; `omniopd status --watch` "
            "shows the losses meanwhile."
        )
    notes = [f"Partial: these are not through and left out: {', '.join(out)}."] if out else []
    params |= {"arms": kept, "branches": {}, "held_out": {}, "notes": [*notes, *params["notes"]]}
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
    """Run the stage where dag/ has this report: all else there is the project's own."""
    with tempfile.TemporaryDirectory() as name:
        _linked(Path(), Path(name), DAG)
        _linked(DAG, Path(name) / DAG, PLAN)
        (Path(name) / PLAN).write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        words = ("stage", "report", "--cell", "report", "--out", str(OUT))
        command = [sys.executable, "-m", "pipeline.commands.entry", *words]
        done = subprocess.run(command, cwd=name, check=False)
    if done.returncode:
        raise UserError("report --partial: the report stopped; what it said is above.")


def _linked(folder: Path, there: Path, but: Path) -> None:
    """Make a folder of links to what is in `folder`, except `but`."""
    there.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path != but:
            (there / path.name).symlink_to(path.resolve())
