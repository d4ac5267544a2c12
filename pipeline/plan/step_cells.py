"""Cells of several on-policy steps: experiment.steps_per_cell says how an arm's rounds are cut.

Rounds 1 to S are one cell, S + 1 to 2 S the next; the last may hold fewer, and S above the number
of rounds means all of them. What is computed is the same for every S, but an arm has checkpoints,
and so evaluations, only where a cell ends: the cell is listed there, under the name of its last
round. Steps are shared between arms by whole cells, so with S > 1 arms sample round 1 each for
itself; the teacher's answers to it are bought once all the same. Calibration looks at all steps of
a cell. A branch or experiment.match need the rounds one by one, and several teachers more tables
than a cell has.
"""

from typing import Any, Protocol

from pipeline.core.chosen import file_of
from pipeline.core.errors import refuse
from pipeline.method.objectives import declared
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.rounds import Cells, Round
from pipeline.stage.multi_step import STAGES

GROUPS = {  # by the stages of a step, that is by what the cell writes
    ("rollout", "forks", "teach", "score", "prior", "train"): "steps",
    ("rollout", "forks", "score", "prior", "train"): "steps-zero",
    ("rollout", "forks", "prior", "train"): "steps-prior",
    ("rollout", "train"): "steps-rollouts",
    ("teach", "train"): "steps-solutions",
    ("rollout", "forks", "teach", "train"): "steps-forks",
    ("rollout", "forks", "train"): "steps-opd-forks",
}
CONTROL = "steps-control"  # as steps-prior, with another arm's targets


def size(file: Experiment) -> int:
    """Rounds in a cell."""
    return min(file.experiment.steps_per_cell, file.experiment.rounds)


def single(file: Experiment) -> Experiment:
    """The same experiment with a cell for each round."""
    block = file.experiment.model_copy(update={"steps_per_cell": 1})
    return file.model_copy(update={"experiment": block})


def check(file: Experiment, name: str, settings: Settings) -> None:
    """Raise UserError of what a cell of several steps cannot hold."""
    block, key = file.experiment, "experiment.steps_per_cell"
    for other, given in (("match", block.match), ("branch", list(block.branch))):
        if given:
            wanted = f"1 with experiment.{other}, which needs every round by itself"
            refuse(key, block.steps_per_cell, wanted, f"Set it to 1, or take {other} out.")
    graded = settings.score.source == "outcome" and settings.prior.of_scores
    for setting, found in (("forks.gate", settings.forks.gate), ("score.source outcome", graded)):
        if found:
            wanted = f"1 with {setting}, as arm {name} has it"
            refuse(key, block.steps_per_cell, wanted, "A step has one table of each kind.")
    if not {"snapshot", "repaired"}.isdisjoint(declared(settings.train.objective).reads):
        wanted = f"1 with objective {settings.train.objective}, as arm {name} has"
        refuse(key, block.steps_per_cell, wanted, "A step samples once, by its own student.")
    if len(settings.teach.teachers) > 1:
        wanted = f"1 with several teachers, as arm {name} has"
        remedy = "Set it to 1, or take the arm out of experiment.arms."
        refuse(key, block.steps_per_cell, wanted, remedy)


class Arms(Cells, Protocol):
    """The plan, as far as an arm is put into it."""

    def start(self, settings: Settings, seed: int) -> tuple[str, str]:
        """The problems' cell and the base student's folder."""
        ...

    def evaluate(
        self, settings: Settings, seed: int, round_: int, prompts: str, policy: str
    ) -> dict[str, str]:
        """The cell that looks at the checkpoint after a round, by its stage."""
        ...


class Inner:
    """Stands in for the plan while the cells of a round are collected, by stage."""

    def __init__(self, plan: Arms, last: int) -> None:
        self.plan, self.experiment, self.cap = plan, plan.experiment, plan.cap
        self.last = last
        self.cells: dict[str, dict[str, Any]] = {}
        self.controlled = ""  # cell of another arm

    def cell(self, group: str, resolved: dict[str, Any], **inputs: str) -> str:
        """The stage instead of a key: a round has one cell of each."""
        stage = group.partition("-")[0]
        own = {name: value for name, value in resolved.items() if name != "round"}
        self.cells[stage] = {"group": group, "params": own, "inputs": inputs}
        return stage

    def model(self, name: str, settings: Settings, seed: int, prompts: str) -> str:
        return self.plan.model(name, settings, seed, prompts)

    def arm(self, name: str, seed: int) -> dict[str, Any]:
        """The targets of the same rounds of a controlled arm, under whichever name is asked for."""
        self.controlled = self.plan.arm(name, seed)[f"round-{self.last}"]["prior"]
        return {f"round-{r}": {"prior": "prior"} for r in range(1, self.last + 1)}


def arm(plan: Arms, name: str, settings: Settings, seed: int) -> dict[str, Any]:
    """An arm's cells by the round that each ends with."""
    check(plan.experiment, name, settings)
    prompts, base = plan.start(settings, seed)
    total, step = plan.experiment.experiment.rounds, size(plan.experiment)
    policy, rounds = base, {}
    for first in range(1, total + 1, step):
        last = min(first + step - 1, total)
        keys = _cell(plan, settings, seed, (first, last), prompts, base, policy)
        policy = f"data/train/{keys['train']}"
        if last == total or settings.evaluate.rounds == "all":
            keys |= plan.evaluate(settings, seed, last, prompts, policy)
        rounds[f"round-{last}"] = keys
    return rounds


def _cell(
    plan: Arms,
    settings: Settings,
    seed: int,
    rounds: tuple[int, int],
    prompts: str,
    base: str,
    policy: str,
) -> dict[str, str]:
    """The stages of one cell and their calibration, by stage."""
    inner = Inner(plan, rounds[1])
    Round(inner, settings, seed, rounds[0], prompts, base, "policy").train()
    stages = {name: inner.cells[name] for name in STAGES if name in inner.cells}
    group = CONTROL if inner.controlled else GROUPS.get(tuple(stages), "steps")
    about = {"prompts": prompts, "policy": policy, "base": base, **_files(settings)}
    about["teacher"] = _teacher(stages) or base
    if inner.controlled:
        about["controlled"] = inner.controlled
    key = plan.cell(group, {"rounds": list(rounds), "stages": stages}, **about)
    keys = dict.fromkeys(stages, key)
    if looked := inner.cells.get("calibrate"):
        own = {n: key if v in STAGES else v for n, v in looked["inputs"].items()}
        resolved = looked["params"] | {"round": rounds[1]}
        keys["calibrate"] = plan.cell("calibrate", resolved, **own)
    return keys


def spans(plan: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """First and last round of each cell of several steps."""
    groups = (own for name, own in plan["cells"].items() if name.partition("-")[0] == "steps")
    return {key: tuple(cell["params"]["rounds"]) for found in groups for key, cell in found.items()}


def stages(plan: dict[str, Any], group: str, key: str) -> list[str]:
    """The stages that a cell runs: its own, or those of its steps."""
    stage = group.partition("-")[0]
    return [*plan["cells"][group][key]["params"]["stages"]] if stage == "steps" else [stage]


def _teacher(stages: dict[str, Any]) -> str:
    """Folder of a local teacher; nothing where there is none, or it is hosted."""
    return next((s["inputs"]["teacher"] for s in stages.values() if "teacher" in s["inputs"]), "")


def _files(settings: Settings) -> dict[str, str]:
    """Files of code that the variants of an arm load; embedding-variance loads other variants."""
    scheduler, metric = settings.forks.scheduler, settings.score.metric
    asks = scheduler == "embedding-variance"
    return {
        "task": file_of(settings.prepare.task),
        "objective": file_of(settings.train.objective),
        # as these files were called once: a part of the cell's key
        "scheduler": "pipeline/schedulers" + ("" if asks else f"/{file_of(scheduler)}.py"),
        "similarity": "pipeline/similarity" + ("" if asks else f"/{file_of(metric)}.py"),
    }
