"""What params choose by name: a metric, a scheduler or an objective of ours, or an extension.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from pipeline.core import extensions
from pipeline.method.schedulers import SCHEDULERS
from pipeline.method.similarity import METRICS
from pipeline.plan import budget_caps
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.checks.validate import refuse

ANCHORED = ("omniopd", "imitate-forks", "opd-forks")  # objectives of ours with a second term
WHITE_BOX = {"opd", "opd-sampled", "opd-forks", "gkd"}  # objectives that read a teacher's logits


def check(file: Experiment, where: str, arm: Settings) -> None:
    """`where` is what stands before a key in a message: the arm, if it overrides anything."""
    for key, found, kind, wanted in (
        ("score.metric", arm.score.metric, "metric", METRICS),
        *(("calibrate.metrics", one, "metric", METRICS) for one in arm.calibrate.metrics),
        ("forks.scheduler", arm.forks.scheduler, "scheduler", SCHEDULERS),
    ):
        if extensions.named(found):
            extensions.check(f"{where}{key}", found, kind)
        elif found not in wanted:
            refuse(f"{where}{key}", found, f"one of {', '.join(wanted)}", "Correct the name.")
    if extensions.named(arm.train.objective):
        _objective(file, where, arm)
    if extensions.named(arm.prepare.task):
        extensions.check("prepare.task", arm.prepare.task, "task")


def anchored(objective: str) -> bool:
    """Whether the objective's loss has a second term, towards the round-0 checkpoint."""
    own = extensions.named(objective)
    return extensions.says(objective, extensions.ANCHOR) if own else objective in ANCHORED


def white_box(objective: str) -> bool:
    """Whether an objective reads a teacher's logits."""
    own = extensions.named(objective)
    return extensions.says(objective, extensions.TEACHER) if own else objective in WHITE_BOX


def _objective(file: Experiment, where: str, arm: Settings) -> None:
    """An objective of the experiment's own: what is known of those of ours is not known of it."""
    name = arm.train.objective
    extensions.check(f"{where}train.objective", name, "objective")
    if file.experiment.match in budget_caps.PRICED:
        wanted = f"student_tokens or optimizer_steps with train.objective {name}"
        refuse("experiment.match", file.experiment.match, wanted, "What it takes is not known.")
    if file.experiment.steps_per_cell > 1:
        wanted = f"1 with train.objective {name}"
        refuse("experiment.steps_per_cell", file.experiment.steps_per_cell, wanted, "Set it to 1.")
    if extensions.says(name, extensions.TEACHER) and len(arm.teach.teachers) > 1:
        refuse(
            f"{where}teach.teacher", list(arm.teach.teachers), f"one with {name}", "Name one of it."
        )
