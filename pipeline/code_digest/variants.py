"""Which variant of its stage a cell is: what it chooses of what the stage can do.

Read from the group and the content of a cell of the plan. A variant's name is the stage and the
names of what it chooses, so that cells with the same code share one lock.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.code_digest.declared import HOSTED
from pipeline.core import extensions
from pipeline.core.chosen import file_of

Choice = dict[str, frozenset[str]]  # axis of pipeline/code_digest/declared.py: chosen values
LINKS = ("arms", "branches", "held_out")  # of a plan's cells, what maps names to keys
NAMED = (  # axes, as a name says them
    *("task", "init", "scheduler", "teacher", "objective", "baseline", "metric", "metrics"),
    *("engine", "rows"),
)
UNNAMED = {"hf"}  # values that a name leaves out


@dataclass(frozen=True)
class Part:
    """One stage with what is chosen of it."""

    stage: str
    chosen: Choice = field(default_factory=dict, hash=False)

    @property
    def entry(self) -> str:
        return f"stages.{self.stage}"


@dataclass(frozen=True)
class Variant:
    """A name, and the stages of which its code is: several for a cell of steps."""

    name: str
    parts: tuple[Part, ...]


def of(group: str, cell: dict[str, Any]) -> Variant:
    """The variant of a cell of a plan, or of a cell's file."""
    stage = group.partition("-")[0]
    if stage != "steps":
        part = Part(stage, {k: frozenset(v) for k, v in _chosen(stage, group, cell)})
        return Variant("-".join([stage, *_words(part)]), (part,))
    inner = cell["params"]["stages"].values()
    steps = [of(one["group"], {**one["inputs"], "params": one["params"]}) for one in inner]
    parts = [part for one in steps for part in one.parts]
    return Variant("-".join(["steps", *[one.name for one in steps]]), (Part("steps"), *parts))


def of_plan(plan: dict[str, Any]) -> dict[str, Variant]:
    """The variants of all cells, by name."""
    by_name = {}
    for group, cells in plan["cells"].items():
        if group not in LINKS:
            for cell in cells.values():
                variant = of(group, cell)
                by_name[variant.name] = variant
    return dict(sorted(by_name.items()))


def _words(part: Part) -> list[str]:
    values = [sorted(part.chosen[axis]) for axis in NAMED if axis in part.chosen]
    words = [re.sub(r"[_.]", "-", x) for some in values for x in some if x not in UNNAMED]
    if part.stage == "forks":
        words = words[:1]  # the metric comes with the scheduler
    if part.stage == "score" and not words:
        words = ["zero"]
    if part.stage == "prior":
        words = ["teacher"] * len(part.chosen["model"])
    return words


def _chosen(stage: str, group: str, cell: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Yield what the cell chooses on each axis; an axis that is left out counts as a whole."""
    p = cell["params"]
    if stage in ("prepare", "pretrain", "rollout", "evaluate") or p.get("source") == "outcome":
        yield "task", {file_of(p["prepare"]["task"])}
    else:  # the blocks of tasks are in reach of every params model, and are not loaded
        yield "task", set()
        # calibrate: every metric of ours counts, and those of the experiment's own that it names
        yield "metrics", {file_of(x) for x in p.get("metrics", ()) if extensions.named(x)}
    match stage:
        case "pretrain":
            yield "init", {cell["source"]} if "source" in cell else set()
        case "rollout":
            yield "engine", {p.get("engine", "hf")}
            imported = {"imported"} if p["prepare"].get("responses") else set()
            yield "rows", {"repaired"} if "answers" in cell else imported
        case "evaluate":
            yield "engine", {p.get("engine", "hf")}
        case "forks":
            asks = p["scheduler"] == "embedding-variance"
            yield "scheduler", {file_of(p["scheduler"])}
            yield "metric", {"embedding"} if asks else set()
            yield "model", {"model"} if asks else set()
        case "teach":
            yield "teacher", {p["kind"]}
            yield "engine", {p.get("engine", "hf")} if p["kind"] not in HOSTED else set()
        case "score":
            compares = p["source"] not in ("zero", "outcome")
            yield "metric", {file_of(p["metric"])} if compares else set()
        case "prior":
            yield "model", {"model"} if p["source"] == "teacher" else set()
        case "train":
            agreement = p.get("baseline") == "teacher-agreement"
            yield "objective", {file_of(p["objective"])}
            yield "baseline", {"teacher-agreement"} if agreement else set()
            yield "metric", {file_of(p["metric"])} if agreement else set()
