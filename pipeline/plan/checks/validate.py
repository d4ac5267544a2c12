"""The listed arms, their seeds, rounds and branches fit together.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from pipeline.config.params import METHOD
from pipeline.core.dag_names import SHARED
from pipeline.core.errors import refuse
from pipeline.plan.blocks import Experiment

MOST_ROUNDS = 10_000  # cells of stage train that a plan may have


def experiment(file: Experiment) -> None:
    listed = file.experiment.arms
    if len(set(listed)) < len(listed):
        refuse("experiment.arms", list(listed), "each arm once", "Remove the repeats.")
    if SHARED in listed:
        refuse("experiment.arms", SHARED, "another name: dag/ has it for itself", "Rename the arm.")
    if not listed or not file.experiment.seeds:
        refuse("experiment", "no arm or no seed", "at least one of each", "Add one.")
    if len(set(file.experiment.seeds)) < len(file.experiment.seeds):
        refuse("experiment.seeds", list(file.experiment.seeds), "each seed once", "Remove repeats.")
    arms = len(listed) + len(file.experiment.branch)
    rounds = -(-file.experiment.rounds // file.experiment.steps_per_cell)
    if arms * len(file.experiment.seeds) * rounds > MOST_ROUNDS:
        refuse(
            "experiment",
            f"{arms} arms x {len(file.experiment.seeds)} seeds x {rounds} rounds",
            f"at most {MOST_ROUNDS:,}, the largest that were tried",
            "Lower one of them, or set experiment.steps_per_cell.",
        )
    if (known := getattr(file.prepare, "datasets", None)) is not None:
        _datasets(file, list(known))
    if "base" in file.arms:
        refuse("arms.base", "defined", "no such arm", "The untrained student is always evaluated.")


def _datasets(file: Experiment, known: list[str]) -> None:
    """A model learns only from datasets that the task has: for another it would find no problem."""
    for name, model in file.pretrain.models.items():
        for dataset in model.datasets or ():
            if dataset not in known:
                told = f"one of prepare.datasets ({', '.join(known)})"
                key = f"pretrain.models.{name}.datasets"
                refuse(key, dataset, told, "Correct it; without datasets it learns from all.")


def branches(file: Experiment) -> None:
    key, listed = "experiment.branch", file.experiment.branch
    if len(set(listed)) < len(listed):
        refuse(key, list(listed), "each control once", "Remove the repeats.")
    if listed and METHOD not in file.experiment.arms:
        refuse(key, list(listed), f"{METHOD} in experiment.arms", f"Add {METHOD} there.")
    if listed and not file.arm(METHOD).prepare.graded:
        wanted = f"none, as task {file.arm(METHOD).prepare.task} has no checker"
        refuse(key, list(listed), wanted, "Branches compare accuracies: leave it out.")
    if "held-out" in listed:
        refuse(key, list(listed), "another name for held-out", "dag/ has that for evaluate.*.")
    for name in listed:
        changed = file.branch(name)
        others = set(file.arms[name]) - {"score", "prior"}
        if others:
            refuse(
                key,
                name,
                f"an arm that overrides score and prior alone; it overrides {sorted(others)}",
                "A branch changes the scores of a round and nothing else.",
            )
        if changed == file.arm(METHOD):
            refuse(key, name, f"an arm that differs from {METHOD}", "Take it out.")
        if changed.prior.controls not in (None, METHOD):
            refuse(
                f"arms.{name}.prior.controls",
                changed.prior.controls,
                f"{METHOD}, whose rounds a branch changes",
                "Correct it, or take the arm out of experiment.branch.",
            )
