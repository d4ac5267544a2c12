"""A cell of several on-policy steps: the cells that it stands for, and what it makes of theirs.

Each step is a round of an arm, and each of its stages the cell that it would be if it stood in the
plan, but for its key, CELL/STEP, and its place, .resume/inside-CELL/STEP/STAGE. It is run by its
own command line, so that a step is what the round is, by construction.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import params
from pipeline.data import schemas, tables
from pipeline.stage import cells, dataflow, resume
from pipeline.stage.run_records import DATA

STAGES = ("rollout", "forks", "teach", "score", "prior", "train")  # in the order of a step
TABLES = {
    "rollout": ("rollouts", schemas.ROLLOUTS),
    "forks": ("forks", schemas.FORKS),
    "teach": ("answers", schemas.ANSWERS),
    "score": ("scores", schemas.SCORES),
    "prior": ("targets", schemas.TARGETS),
}
OWN = {"rollouts", "forks", "answers", "scores", "targets"}  # inputs that come from the same step
POLICY = "policy"  # the cell's in its first step, then the step's before
CONTROLLED = "controlled"  # another arm's cell of the same steps
LARGEST = (
    *("engine_gap_max", "engine_entropy_gap_max"),
    *("engine_forks_max", "engine_forks_chunk_tokens"),  # sizes that all steps share
)
SUMMED = ("seconds", "usd", "usd_alone")
RATE = "continuation_failure_rate"
REASON = "no_signal"  # of the steps that trained nothing; rounds_without_signal counts them


class Steps(params.Params):
    rounds: tuple[params.Count, params.Count]  # first and last
    stages: dict[str, Any]  # group, params without the round, inputs

    @property
    def count(self) -> int:
        return self.rounds[1] - self.rounds[0] + 1


class Inner(NamedTuple):
    """A stage of one step."""

    step: int
    stage: str
    key: str
    group: str
    content: dict[str, Any]  # as a cell's file says it

    @property
    def folder(self) -> Path:
        return Path(cells.place(f"{DATA}/{self.stage}/{self.key}"))


def inner(key: str, cell: dict[str, Any]) -> list[Inner]:
    """The cells that cell `key` stands for, in order."""
    p = Steps.model_validate_json(json.dumps(cell["params"]))
    found = []
    for step, round_ in enumerate(range(p.rounds[0], p.rounds[1] + 1), 1):
        for stage in (name for name in STAGES if name in p.stages):
            one, own = p.stages[stage], f"{key}/{step}"
            content: dict[str, Any] = {"params": one["params"] | {"round": round_}}
            for name, value in one["inputs"].items():
                match name:
                    case "policy":
                        value = cell[POLICY] if step == 1 else f"{DATA}/train/{key}/{step - 1}"
                    case "controlled":
                        value = f"{own}-{CONTROLLED}"
                    case _ if name in OWN:
                        value = own
                content[name] = value
            content |= {
                "reads": dataflow.reads(one["group"], content),
                "deps": dataflow.deps(one["group"], content),
                "out": dataflow.out(one["group"], own),
            }
            found.append(Inner(step, stage, own, one["group"], content))
    return found


def as_one(key: str, cell: dict[str, Any], stage: str) -> dict[str, Any]:
    """A stage of cell `key` as one cell that reads the tables of all steps, from the first step's
    checkpoint: for those who look at what was made."""
    p = Steps.model_validate_json(json.dumps(cell["params"]))
    one = p.stages[stage]
    inputs = {
        name: key if name in OWN else cell[name] if name in (POLICY, CONTROLLED) else value
        for name, value in one["inputs"].items()
    }
    return {"params": one["params"] | {"round": p.rounds[1]}, **inputs}


def controlled(key: str, cell: dict[str, Any], step: int) -> None:
    """Take the step's targets of the controlled arm out of those of all its steps."""
    whole = DATA / "prior" / cell[CONTROLLED] / "targets.parquet"
    own = cells.place(f"{DATA}/prior/{key}/{step}-{CONTROLLED}/targets.parquet")
    tables.split(whole, step, Path(own), schemas.TARGETS)


def finish(key: str, whole: Sequence[Inner]) -> None:
    """The cell's outs: a table of each kind, and the last step's checkpoint, which is moved."""
    for stage in dict.fromkeys(one.stage for one in whole):
        own, out = [one for one in whole if one.stage == stage], DATA / stage / key
        out.mkdir(parents=True, exist_ok=True)
        runs = [
            dict(json.loads((one.folder / "run.json").read_text(encoding="utf-8"))) for one in own
        ]
        text = json.dumps({**merged(runs), "cell": key}, indent=1, allow_nan=False)
        cells.write_text(out / "run.json", text + "\n")
        if stage in TABLES:
            name, schema = TABLES[stage]
            paths = [one.folder / f"{name}.parquet" for one in own]
            tables.merge(paths, out / f"{name}.parquet", schema)
        else:
            lines = [(one.folder / "metrics.jsonl").read_text(encoding="utf-8") for one in own]
            cells.write_text(out / "metrics.jsonl", "".join(lines))
    shutil.rmtree(out / "checkpoint", ignore_errors=True)  # where no DVC has removed it
    for name in ("optimizer.safetensors", "checkpoint"):
        shutil.move(own[-1].folder / name, out / name)


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run.json of those of the steps: counts, seconds and dollars add up, shares are means.

    The start of the process is in the run.json of the cell of steps.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        weighed = [(run[name], run["rows_out"]) for run in runs if name in run]
        values = [value for value, _ in weighed]
        if name == REASON:
            found[name] = ", ".join(dict.fromkeys(values))
        elif isinstance(values[0], str):
            found[name] = values[-1]
        elif name in LARGEST:
            found[name] = max(values)
        elif name in SUMMED or all(isinstance(value, int) for value in values):
            found[name] = round(sum(values), 6)
        else:
            rows = sum(count for _, count in weighed)
            found[name] = sum(value * count for value, count in weighed) / max(rows, 1)
    if RATE in found:
        draws = found["answers"] + found["failed"]
        found[RATE] = round(found["failed"] / max(draws, 1), 6)
    if "steps_per_round" in found:
        found["optimizer_steps"] = found["steps_per_round"]
        found["steps_per_round"] = runs[-1]["steps_per_round"]
    return found | {"start_seconds": 0.0}


def inside(key: str) -> Path:
    """Where the stages of a cell's steps write."""
    return resume.FOLDER / f"inside-{key}"


def kept_folders(key: str) -> Iterator[Path]:
    """Yield the folders in .resume/ of a cell's steps."""
    for folder in resume.FOLDER.glob(f"*-{key}"):
        if folder.name != f"steps-{key}":
            yield folder
