"""How far the teacher agrees with the student, round by round: all there is without a checker.

A round's prompts are new to its student, which has trained in the rounds before it. So the mean
similarity at the forks of round r is that of the student after r - 1 rounds, on prompts that it was
not trained on; what the last round made of it is in written.json. Rounds have different prompts.
"""

from typing import Any

from pipeline.analysis import bootstrap
from pipeline.data import schemas, tables
from pipeline.stage.run_records import GATE, Arms, Row, folder, rounds


def rows(arms: Arms, settings: dict[str, Any]) -> list[Row]:
    """One row per arm, seed, round and teacher: mean similarity with a 95 % interval.

    The mean is over forks of a prompt, then over prompts; the interval is a bootstrap over prompts,
    conditional on the run.
    """
    return [
        _row(arm, seed, round_, stage, cells)
        for arm, seed, round_, cells in rounds(arms)
        if arm in settings and settings[arm]["score"]["source"] not in ("zero", "outcome")
        for stage in cells
        if stage.partition("-")[0] == "score" and stage != GATE
    ]


def prompts(rollout: str) -> dict[str, str]:
    """prompt_id of each response of a rollout cell."""
    found: dict[str, str] = {}
    path = folder("rollout", rollout) / "rollouts.parquet"
    for group in tables.stream(path, schemas.ROLLOUTS, ["rollout_id", "prompt_id"]):
        found |= dict(zip(*(group[name].to_pylist() for name in group.column_names), strict=True))
    return found


def _row(arm: str, seed: int, round_: int, stage: str, cells: dict[str, str]) -> Row:
    scores = tables.read(
        folder("score", cells[stage]) / "scores.parquet",
        schemas.SCORES,
        ["rollout_id", "metric", "similarity"],
    )
    prompt_of = prompts(cells["rollout"])
    names = [prompt_of[name] for name in scores["rollout_id"].to_pylist()]
    found = {"arm": arm, "seed": seed, "round": round_, "teacher": stage.partition("-")[2]}
    if not names:
        return found | dict.fromkeys(("metric", "similarity", "low", "high")) | {"prompts": 0}
    graded = bootstrap.graded(names, scores["similarity"].to_pylist())
    interval = bootstrap.mean(graded.share_B)
    return found | {
        "metric": scores["metric"][0].as_py(),
        "similarity": interval.value,
        "low": interval.low,
        "high": interval.high,
        "prompts": len(graded.problems),
    }
