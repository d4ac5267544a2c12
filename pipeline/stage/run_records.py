"""The cells of a plan's arms and what each left in its run.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.code_digest.variants import LINKS
from pipeline.core import verified
from pipeline.core.errors import UserError

DATA = Path("data")
AFTER = "rollout-after"  # how an arm's links call the rollouts of what its last round trained
GATE = "score-gate"  # and the grades that say which prompts are audited
Arms = dict[str, dict[str, dict[str, dict[str, str]]]]  # arm: seed-S: round-R: stage: key
Row = dict[str, Any]


def folder(stage: str, key: str) -> Path:
    """The folder of a cell; with several teachers an arm has stages teach-NAME and score-NAME."""
    return DATA / stage.partition("-")[0] / key


def run_json(stage: str, key: str) -> dict[str, Any]:
    path = folder(stage, key) / "run.json"
    if not path.is_file():
        raise UserError(f"{path}: missing. Run `dvc repro`.")
    verified.once(path)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def rounds(arms: Arms) -> Iterator[tuple[str, int, int, dict[str, str]]]:
    """(arm, seed, round, cells) in the plan's order."""
    for arm, seeds in arms.items():
        for seed, found in seeds.items():
            for round_, cells in found.items():
                yield (
                    arm,
                    int(seed.removeprefix("seed-")),
                    int(round_.removeprefix("round-")),
                    cells,
                )


def seconds(plan: dict[str, Any]) -> float:
    """Seconds of the plan's stages together, whenever they ran and however often they stopped."""
    groups = (item for item in plan["cells"].items() if item[0] not in LINKS)
    paths = [DATA / group.partition("-")[0] / key / "run.json" for group, c in groups for key in c]
    paths.append(DATA / "report" / "run.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    return float(sum(run["seconds"] + run.get("start_seconds", 0.0) for run in found))
