"""What params choose by name: a metric, a scheduler or an objective of ours, or an extension.

Each check raises UserError with the key, the value found, the value wanted and a remedy.
"""

from collections.abc import Iterator

from pipeline.config.evaluation import Agreement
from pipeline.core import extensions
from pipeline.core.errors import refuse
from pipeline.method.objectives import OBJECTIVES
from pipeline.method.schedulers import SCHEDULERS
from pipeline.method.similarity import METRICS
from pipeline.plan import budget_caps
from pipeline.plan.blocks import Experiment, Settings


def check(file: Experiment, where: str, arm: Settings) -> None:
    """`where` is what stands before a key in a message: the arm, if it overrides anything."""
    how = arm.evaluate.agreement
    for key, found, kind, wanted in (
        *(("evaluate.agreement.metric", one, "metric", METRICS) for one in _metric(how)),
        ("score.metric", arm.score.metric, "metric", METRICS),
        *(("calibrate.metrics", one, "metric", METRICS) for one in arm.calibrate.metrics),
        ("forks.scheduler", arm.forks.scheduler, "scheduler", SCHEDULERS),
        ("train.objective", arm.train.objective, "objective", OBJECTIVES),
    ):
        if extensions.named(found):
            extensions.check(f"{where}{key}", found, kind)
        elif found not in wanted:
            names = f"one of {', '.join(wanted)}, or extensions.NAME, a file of your own"
            refuse(f"{where}{key}", found, names, "Correct the name.")
    if extensions.named(arm.train.objective):
        _objective(file, where, arm)
    if extensions.named(arm.prepare.task):
        extensions.check("prepare.task", arm.prepare.task, "task")


def _metric(how: Agreement | None) -> Iterator[str]:
    if how is not None and how.metric is not None:
        yield how.metric


def _objective(file: Experiment, where: str, arm: Settings) -> None:
    """An objective of the experiment's own: what is known of those of ours is not known of it."""
    name = arm.train.objective
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
