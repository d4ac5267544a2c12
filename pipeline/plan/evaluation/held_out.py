"""Cells that say how far a teacher agrees with students on prompts that none was trained on.

The base student and what the last round of each arm trained answer the prompts of the round that
would have come next. The teacher is asked what rounds ask it: to go on at forks, or at the first
token, where it answers by itself and so once for all students. A judge is shown what an arm's
student and the base student wrote. Everything but the student is that of the base blocks, whatever
an arm overrides: arms are measured by the same teacher, judge and metric.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.config.evaluation import Agreement, Judge
from pipeline.config.problems import TaskPrepare
from pipeline.config.teachers import LocalTeacher
from pipeline.core.errors import refuse
from pipeline.plan.blocks import Experiment, Settings
from pipeline.plan.checks.arms import measuring
from pipeline.plan.resolved import own_answers
from pipeline.plan.rounds import Cells, Round
from pipeline.stage.run_records import Arms

STAGES = ("rollout", "forks", "teach", "score")
ASKED = ("agreement", "judge")  # of block evaluate
JUDGE = "judge"  # behind a stage's name, as the looks' names


class Plan(Cells, Protocol):
    """The plan, as far as these cells are put into it."""

    def prompts(self, prepare: TaskPrepare) -> str:
        """The problems' cell."""
        ...


class _Look(Round):
    """A round whose student answers itself, where another trainer's responses are read."""

    def rollout(self, policy: str | None = None, **repaired: str) -> str:
        """The student's own answers."""
        seed, round_ = self.where["seed"], self.where["round"]
        settings = own_answers(self.settings)
        own = Round(self.plan, settings, seed, round_, self.prompts, self.base, self.policy)
        self.found["rollout"] = own.rollout()
        return self.found["rollout"]


def cells(plan: Plan, arms: Arms) -> Arms:
    """Stages of each student by arm, seed and last round, as `forks-answers`; of `answers`, `forks`
    and `judge` each. Arm base is the untrained student, round 0. Empty unless params ask."""
    block, found = plan.experiment.base().evaluate, Arms()
    looks = (*(block.agreement.of if block.agreement else ()), *([JUDGE] * bool(block.judge)))
    for arm, seed, round_, policy in _students(arms) if looks else ():
        base = arms["base"][f"seed-{seed}"]["round-0"]["policy"]
        beside = found.get("base", {}).get(f"seed-{seed}", {}).get("round-0", {})
        own = found.setdefault(arm, {}).setdefault(f"seed-{seed}", {})[f"round-{round_}"] = {}
        for what in looks:
            asked = settings_of(plan.experiment, f"-{what}")
            prompts = plan.prompts(asked.prepare)
            next_ = plan.experiment.experiment.rounds + 1
            look = _Look(plan, asked, seed, next_, prompts, base, policy)
            if what == JUDGE:
                _judged(look, block.judge, beside.get(f"rollout-{JUDGE}"))
            else:
                look.score(asked.teach.teachers[0])
            own |= {f"{name}-{what}": look.found[name] for name in STAGES if name in look.found}
    return found


def _judged(look: Round, how: Judge | None, beside: str | None) -> None:
    """The cells of a judge; `beside` is the rollout of the base student, None where it is this."""
    assert how is not None, "the params have a judge"
    look.rollout()
    if beside is not None:
        more = {"chunk_tokens": how.tokens, "pairs": how.pairs}
        resolved = look.teach_params(how.teacher) | more
        look.taught(JUDGE, how.teacher, resolved, rollouts=look.rollout(), beside=beside)


def settings_of(experiment: Experiment, stage: str) -> Settings:
    """The settings of a cell that an arm's links call `stage`, as forks-answers."""
    settings, what = experiment.base(), stage.partition("-")[2]
    block = settings.evaluate
    if what == JUDGE:
        assert block.judge is not None, "the plan has no such cells"
        return _comparing(experiment, settings, block.judge)
    assert block.agreement is not None, "the plan has no such cells"
    return _asked(settings, block.agreement, what)


def check(experiment: Experiment) -> None:
    """Raise UserError where evaluate.agreement or evaluate.judge cannot be had."""
    settings = experiment.base()
    for key in ASKED:
        how = getattr(settings.evaluate, key)
        for name in experiment.experiment.arms:
            if (found := getattr(experiment.arm(name).evaluate, key)) != how:
                refuse(
                    f"arms.{name}.evaluate.{key}",
                    found,
                    "that of the base blocks",
                    "All arms are measured alike: set it in block evaluate.",
                )
        if how:
            _held_out(experiment, settings, key)
    if agreement := settings.evaluate.agreement:
        measuring(experiment, _asked(settings, agreement, "forks"), "teach.teacher", 0)
    if judge := settings.evaluate.judge:
        most, tokens = settings.rollout.samples_per_prompt, settings.rollout.max_new_tokens
        if judge.pairs > most:
            wanted = f"at most rollout.samples_per_prompt = {most}"
            refuse("evaluate.judge.pairs", judge.pairs, wanted, "A prompt has no more answers.")
        asked = settings.teach.model_copy(update={"teacher": judge.teacher})
        if judge.teacher in experiment.teachers:
            asked = _comparing(experiment, settings, judge).teach
        judged = settings.model_copy(update={"teach": asked})
        measuring(experiment, judged, "evaluate.judge.teacher", 2 * tokens + judge.tokens)


def _held_out(experiment: Experiment, settings: Settings, key: str) -> None:
    """Refuse params of which some arm trains on the prompts that would be held out."""
    rounds, size = experiment.experiment.rounds, settings.rollout.prompts_per_round
    needed = (rounds + 1) * size
    if needed > settings.prepare.train:
        refuse(
            "prepare.train",
            settings.prepare.train,
            f"at least (experiment.rounds + 1) x rollout.prompts_per_round = {needed}",
            f"evaluate.{key} reads a round's prompts that no round trains on: give it more "
            "prompts, or use fewer rounds or prompts a round, or set it to null.",
        )
    remedy = f"It would train on what evaluate.{key} holds out. Change it, or set that to null."
    for name in experiment.experiment.arms:
        arm = experiment.arm(name)
        if arm.rollout.prompts_per_round > size:
            found = arm.rollout.prompts_per_round
            key_ = f"arms.{name}.rollout.prompts_per_round"
            refuse(key_, found, f"at most that of the base blocks, {size}", remedy)
        if arm.prepare != settings.prepare:
            refuse(f"arms.{name}.prepare", "other problems", "those of the base blocks", remedy)


def _students(arms: Arms) -> Iterator[tuple[str, int, int, str]]:
    """Arm, seed, last round and the folder of its model."""
    for arm, seeds in arms.items():
        for seed, rounds in seeds.items():
            last = max(rounds, key=lambda name: int(name.removeprefix("round-")))
            own = rounds[last]
            policy = own["policy"] if arm == "base" else f"data/train/{own['train']}"
            yield arm, int(seed.removeprefix("seed-")), int(last.removeprefix("round-")), policy


def _asked(settings: Settings, how: Agreement, what: str) -> Settings:
    """The base blocks as the cells of one look have them."""
    teach, forks = settings.teach, settings.forks
    changes: dict[str, Any] = {"gate": None}
    if what == "answers":
        longest = settings.rollout.max_new_tokens
        changes |= {"scheduler": "whole", "max_forks": 1, "chunk_tokens": longest}
    score = {"source": "similarity", "allow_flat": True, "max_unseen": 1.0}
    score |= {"metric": how.metric or settings.score.metric}
    asked = {"samples": how.samples, "teacher": teach.teachers[0], "problem": "own"}
    return settings.model_copy(
        update={
            "teach": teach.model_copy(update=asked),
            "forks": forks.model_copy(update=changes),
            "score": settings.score.model_copy(update=score),
        }
    )


def _comparing(experiment: Experiment, settings: Settings, how: Judge) -> Settings:
    """The base blocks as the cells of the judge have them."""
    local = isinstance(experiment.teachers[how.teacher], LocalTeacher)
    asked = {
        "samples": how.samples,
        "teacher": how.teacher,
        "problem": "own",
        "continuation": "completions" if local else how.continuation,
    }
    return settings.model_copy(update={"teach": settings.teach.model_copy(update=asked)})
