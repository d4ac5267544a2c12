"""The inputs and outputs of each stage: a cell of the plan as the files that DVC compares.

A plan says which cells and folders a cell reads, by name. Here stands, once, where each lies, what
of it is a dependency, and under which name the stage is handed it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

CHECKPOINT, MOMENTS = "checkpoint", "optimizer.safetensors"
RUN = "run.json"  # of every cell: counts and seconds
REPORT = "report"  # the stage with one cell, and the name of that


class Input(NamedTuple):
    """An input of a cell under a name of the plan; `{}` stands for the value there."""

    argument: str  # as the stage calls it
    path: str  # that the stage is handed
    deps: tuple[str, ...]  # files or folders of it that DVC compares


def _file(argument: str, path: str) -> Input:
    return Input(argument, path, (path,))


def _model(argument: str, *parts: str) -> Input:
    return Input(argument, "{}", tuple(f"{{}}/{part}" for part in parts))


INPUTS = {
    "rows": _file("rows", "{}"),
    "prompts": _file("prompts", "data/prepare/{}/prompts.parquet"),
    "rollouts": _file("rollouts", "data/rollout/{}/rollouts.parquet"),
    "beside": _file("beside", "data/rollout/{}/rollouts.parquet"),  # others of the same prompts
    "forks": _file("forks", "data/forks/{}/forks.parquet"),
    "answers": _file("answers", "data/teach/{}/answers.parquet"),
    "scores": _file("scores", "data/score/{}/scores.parquet"),
    "gate": _file("gate", "data/score/{}/scores.parquet"),  # of whole solutions of the prompts
    **{f"scores{i}": _file(f"scores{i}", "data/score/{}/scores.parquet") for i in range(1, 5)},
    "targets": _file("targets", "data/prior/{}/targets.parquet"),
    "controlled": _file("controlled", "data/prior/{}/targets.parquet"),
    "student": _file("tokenizer", "{}/checkpoint/tokenizer.json"),
    **{name: _model(name, CHECKPOINT) for name in ("policy", "reference", "teacher", "base")},
    "start": _model("start", CHECKPOINT),
}
TRAINED = _model("policy", CHECKPOINT, MOMENTS)  # a policy that is trained on
# a hosted teacher's messages are rendered by the student's own template
HOSTED = Input("tokenizer", "{}/checkpoint/tokenizer.json", ("{}/checkpoint",))
# by stage: what it writes one by one, as weights may be dropped. Of the others the whole folder is
# one out: a table and RUN
WRITES: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "pretrain": (CHECKPOINT, MOMENTS, RUN),
    "rollout": (),
    "forks": (),
    "teach": (),
    "score": (),
    "prior": (),
    "calibrate": (),
    "train": (CHECKPOINT, MOMENTS, "metrics.jsonl", RUN),
    "evaluate": (),
    "steps": (),
}


def stage(group: str) -> str:
    """The stage that runs the cells of a group."""
    return group.partition("-")[0]


def reads(group: str, cell: dict[str, Any]) -> dict[str, str]:
    """The path of each input, by what the stage calls it."""
    return {one.argument: one.path.format(value) for one, value in _inputs(group, cell)}


def deps(group: str, cell: dict[str, Any]) -> list[str]:
    """Files and folders of other cells that the cell reads, each once."""
    found = (path.format(value) for one, value in _inputs(group, cell) for path in one.deps)
    return list(dict.fromkeys(found))


def outs(group: str, key: str, cell: dict[str, Any]) -> list[str]:
    """Files and folders that the cell writes."""
    name = stage(group)
    if name == REPORT:
        return [out(group, key)]
    inner = cell["params"]["stages"] if name == "steps" else ()
    return [path for one in (*inner, name) for path in _written(one, key)]


def out(group: str, key: str) -> str:
    """The folder that a cell's stage is told to write."""
    return f"data/{REPORT}" if stage(group) == REPORT else f"data/{stage(group)}/{key}"


def content(group: str, key: str, cell: dict[str, Any]) -> dict[str, Any]:
    """All that a stage is told of its cell: what the plan has of it, and paths."""
    return {
        "group": group,
        **cell,
        "reads": reads(group, cell),
        "deps": deps(group, cell),
        "out": out(group, key),
    }


def _written(name: str, key: str) -> Iterable[str]:
    return [f"data/{name}/{key}/{file}" for file in WRITES[name]] or [f"data/{name}/{key}"]


def _inputs(group: str, cell: dict[str, Any]) -> Iterator[tuple[Input, str]]:
    name = stage(group)
    for what, value in cell.items():
        if what == "policy" and name in ("train", "steps"):
            yield TRAINED, value
        elif what == "student" and name == "teach" and "teacher" not in cell:
            yield HOSTED, value
        elif what in INPUTS:
            yield INPUTS[what], value
