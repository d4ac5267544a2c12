"""Cells that say how far a teacher agrees with students on prompts that none was trained on.

The base student and what the last round of each arm trained answer the prompts of the round that
would have come next. The teacher is asked what rounds ask it: to go on at forks, or at the first
token, where it answers by itself and so once for all students. Everything but the student is that
of the base blocks, whatever an arm overrides: arms are measured by the same teacher and metric.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.config.evaluation import Agreement, Looked
from pipeline.config.params import METHOD
from pipeline.config.problems import TaskPrepare
from pipeline.core.errors import refuse
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.rounds import Cells, Round
from pipeline.stage.run_records import Arms

STAGES = ("rollout", "forks", "teach", "score")


class Plan(Cells, Protocol):
    """The plan, as far as these cells are put into it."""

    def prompts(self, prepare: TaskPrepare) -> str:
        """The problems' cell."""
        ...


def cells(plan: Plan, arms: Arms) -> Arms:
    """Stages of each student by arm, seed and last round, as `forks-answers`; of `answers` and
    `forks` each. Arm base is the untrained student, round 0. Empty unless params ask."""
    settings = judging(plan.experiment)
    how, found = settings.evaluate.agreement, Arms()
    if how is None:
        return found
    for arm, seed, round_, policy in _students(arms):
        own = found.setdefault(arm, {}).setdefault(f"seed-{seed}", {})[f"round-{round_}"] = {}
        base = arms["base"][f"seed-{seed}"]["round-0"]["policy"]
        for what in how.of:
            asked = _asked(settings, how, what)
            prompts = plan.prompts(asked.prepare)
            next_ = plan.experiment.experiment.rounds + 1
            look = Round(plan, asked, seed, next_, prompts, base, policy)
            look.score(asked.teach.teachers[0])
            own |= {f"{stage}-{what}": look.found[stage] for stage in STAGES}
    return found


def settings_of(experiment: Experiment, stage: str) -> Settings:
    """The settings of a cell that an arm's links call `stage`, as forks-answers."""
    settings = judging(experiment)
    how, what = settings.evaluate.agreement, stage.partition("-")[2]
    assert how is not None, "the plan has no such cells"
    return next(_asked(settings, how, one) for one in how.of if one == what)


def judging(experiment: Experiment) -> Settings:
    """The base blocks, which arm omniopd is; or the first arm, where params define no such arm."""
    name = METHOD if METHOD in experiment.arms else experiment.experiment.arms[0]
    return experiment.arm(name)


def check(experiment: Experiment) -> None:
    """Raise UserError where evaluate.agreement cannot be had."""
    settings, block = judging(experiment), experiment.experiment
    how = settings.evaluate.agreement
    for name in block.arms:
        if (found := experiment.arm(name).evaluate.agreement) != how:
            refuse(
                f"arms.{name}.evaluate.agreement",
                found,
                "that of the base blocks",
                "All arms are measured alike: set it in block evaluate.",
            )
    needed = (block.rounds + 1) * settings.rollout.prompts_per_round
    if how and needed > settings.prepare.train:
        refuse(
            "prepare.train",
            settings.prepare.train,
            f"at least (experiment.rounds + 1) x rollout.prompts_per_round = {needed}",
            "evaluate.agreement reads a round's prompts that no round trains on: give it more "
            "prompts, or use fewer rounds or prompts a round, or set it to null.",
        )


def _students(arms: Arms) -> Iterator[tuple[str, int, int, str]]:
    """Arm, seed, last round and the folder of its model."""
    for arm, seeds in arms.items():
        for seed, rounds in seeds.items():
            last = max(rounds, key=lambda name: int(name.removeprefix("round-")))
            own = rounds[last]
            policy = own["policy"] if arm == "base" else f"data/train/{own['train']}"
            yield arm, int(seed.removeprefix("seed-")), int(last.removeprefix("round-")), policy


def _asked(settings: Settings, how: Agreement, what: Looked) -> Settings:
    """The base blocks as the cells of one look have them."""
    teach, forks = settings.teach, settings.forks
    changes: dict[str, Any] = {"gate": None}
    if what == "answers":
        longest = settings.rollout.max_new_tokens
        changes |= {"scheduler": "whole", "max_forks": 1, "chunk_tokens": longest}
    score = {"source": "similarity", "allow_flat": True, "max_unseen": 1.0}
    score |= {"metric": how.metric or settings.score.metric}
    prepare = settings.prepare
    if prepare.imported:  # the student answers, not another trainer's
        prepare = prepare.model_copy(update={"responses": False})
    return settings.model_copy(
        update={
            "prepare": prepare,
            "teach": teach.model_copy(
                update={"samples": how.samples, "teacher": teach.teachers[0], "problem": "own"}
            ),
            "forks": forks.model_copy(update=changes),
            "score": settings.score.model_copy(update=score),
        }
    )
