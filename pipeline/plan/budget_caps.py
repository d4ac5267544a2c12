"""The most that a round of an arm can take, from params alone, and the cap of experiment.match.

A ceiling takes every response as long as allowed, as many forks as fit into it and every answer as
long as it may be; of imitate-forks, the answers that it imitates, though all are bought. What a
round really takes is less, and is counted in its tables
(pipeline/training/evidence/budget_matching.py).
"""

from typing import Any

from pipeline.config.params import METHOD
from pipeline.config.teachers import LocalTeacher
from pipeline.core.errors import refuse
from pipeline.method.objectives import declared
from pipeline.plan.blocks import Experiment, Settings

PRICED = ("teacher_output_tokens", "usd")  # resources that only a taught arm uses


def _solutions(settings: Settings) -> bool:
    """Whether the teacher solves the round's problems instead of continuing at forks."""
    return "solutions" in declared(settings.train.objective).reads


def forks(settings: Settings) -> int:
    """Forks of a response; a full solution is asked for once, at its beginning."""
    if _solutions(settings):
        return 1
    return min(
        settings.forks.max_forks, settings.rollout.max_new_tokens // settings.forks.chunk_tokens
    )


def prefixes(settings: Settings) -> int:
    """Places of a round at which the teacher is asked."""
    of_a_prompt = 1 if _solutions(settings) else settings.rollout.samples_per_prompt
    return settings.rollout.prompts_per_round * of_a_prompt * forks(settings)


def ceiling(settings: Settings, resource: str) -> int:
    """A round's ceiling in the resource's unit. Dollars have none: prompts' length is no param."""
    solutions, longest = _solutions(settings), settings.rollout.max_new_tokens
    of_a_prompt = settings.teach.most if solutions else settings.rollout.samples_per_prompt
    responses = settings.rollout.prompts_per_round * of_a_prompt
    match resource:
        case "teacher_output_tokens":
            length = longest if solutions else settings.answer_tokens
            imitated = declared(settings.train.objective).imitated
            used = getattr(settings.train, imitated) if imitated else settings.teach.most
            return prefixes(settings) * used * length
        case "student_tokens":
            return responses * longest
        case "optimizer_steps":
            return settings.train.epochs * -(-responses // settings.train.batch_size)
    raise ValueError(f"no ceiling of {resource}")


def taught(experiment: Experiment, settings: Settings) -> Settings | None:
    """The arm whose answers it learns from: itself, or the arm whose targets it reads, or none."""
    reads, prior = declared(settings.train.objective).reads, settings.prior
    if not {"answers", "solutions"}.isdisjoint(reads):
        return settings
    if "targets" in reads and prior.of_scores:
        return None if settings.score.source == "zero" else settings
    if "targets" in reads and prior.controls:
        return taught(experiment, experiment.arm(prior.controls))
    return None


def uses(experiment: Experiment, settings: Settings) -> bool:
    """Whether the arm uses the matched resource at all; one that does not is not capped."""
    resource = experiment.experiment.match
    return resource is not None and (
        resource not in PRICED or taught(experiment, settings) is not None
    )


def cap(experiment: Experiment) -> float | None:
    """The cap of an arm's round: experiment.budget, else the smallest ceiling of arms that use it.

    None without experiment.match.
    """
    resource, budget = experiment.experiment.match, experiment.experiment.budget
    if resource is None:
        return None
    if budget is not None:
        return budget if resource == "usd" else int(budget)
    arms = map(experiment.arm, experiment.experiment.arms)
    return min(ceiling(arm, resource) for arm in arms if uses(experiment, arm))


def matched(experiment: Experiment, settings: Settings, most: float | None) -> dict[str, Any]:
    """Params of a train cell that is capped at `most`; none of one that is not."""
    if most is None or not uses(experiment, settings):
        return {}
    found: dict[str, Any] = {"match": experiment.experiment.match, "cap": most}
    if experiment.experiment.match == "usd":
        teacher = experiment.teachers[_own(experiment, settings).teach.teachers[0]]
        assert not isinstance(teacher, LocalTeacher)
        assert teacher.price is not None
        found["price"] = {"input": teacher.price.input, "output": teacher.price.output}
    return found


def summary(experiment: Experiment, most: float | None) -> dict[str, Any]:
    """The report's entry on it: {match: ...}; empty without experiment.match."""
    if most is None:
        return {}
    block = experiment.experiment
    free = [name for name in block.arms if not uses(experiment, experiment.arm(name))]
    stated = "budget" if block.budget is not None else "ceiling"
    return {"match": {"resource": block.match, "cap": most, "from": stated, "free": free}}


def check(experiment: Experiment) -> None:
    """Raise UserError unless experiment.match and budget fit each other and every arm."""
    block = experiment.experiment
    if block.match is None:
        if block.budget is not None:
            refuse(
                "experiment.budget", block.budget, "nothing without experiment.match", "Set match."
            )
        return
    if block.budget is None and block.match == "usd":
        wanted = "dollars an arm and round: they follow from the prompts' lengths, not from params"
        refuse("experiment.budget", None, wanted, "`omniopd estimate` says what the arms take.")
    if block.budget is not None and block.match != "usd" and block.budget % 1:
        refuse("experiment.budget", block.budget, f"a whole number of {block.match}", "Round it.")
    using = [name for name in block.arms if uses(experiment, experiment.arm(name))]
    if not using:
        refuse(
            "experiment.match", block.match, "a resource that an arm uses", "None asks a teacher."
        )
    if block.match in PRICED:
        for name in using:
            _check_taught(experiment, name, experiment.arm(name))
        _check_branches(experiment)


def _check_taught(experiment: Experiment, name: str, settings: Settings) -> None:
    match, source = str(experiment.experiment.match), _own(experiment, settings)
    names = source.teach.teachers
    if len(names) > 1:
        refuse(
            "experiment.match",
            match,
            f"one teacher in arm {name}, not {list(names)}",
            "Drop the arm.",
        )
    mine, theirs = settings.rollout, source.rollout
    if (mine.prompts_per_round, mine.samples_per_prompt) != (
        theirs.prompts_per_round,
        theirs.samples_per_prompt,
    ):
        wanted = f"as many prompts and samples in arm {name} as in {settings.prior.controls}"
        refuse("experiment.match", match, wanted, "Its answers are counted by response.")
    if match == "usd" and getattr(experiment.teachers[names[0]], "price", None) is None:
        wanted = f"a teacher with a price in arm {name}, and teachers.{names[0]} has none"
        refuse("experiment.match", match, wanted, "Add price, or match teacher_output_tokens.")


def _check_branches(experiment: Experiment) -> None:
    """A branch differs from its round in the scores alone: both are cut, or neither is."""
    block = experiment.experiment
    capped = bool(block.branch) and uses(experiment, experiment.arm(METHOD))
    for name in block.branch:
        if uses(experiment, experiment.branch(name)) != capped:
            users = (METHOD, name) if capped else (name, METHOD)
            wanted = f"controls that use {block.match} as {METHOD} does; {{}} does, {{}} does not"
            remedy = f"Take {name} out, match student_tokens or optimizer_steps, or match nothing."
            refuse("experiment.branch", list(block.branch), wanted.format(*users), remedy)


def _own(experiment: Experiment, settings: Settings) -> Settings:
    found = taught(experiment, settings)
    assert found is not None
    return found
