"""The examples and the loss of a train cell's objective, from the tables of its round."""

import argparse
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.config.method import Corrected
from pipeline.core import extensions
from pipeline.core.chosen import chosen, file_of
from pipeline.method.objectives import Objective, own
from pipeline.training.evidence import budget_matching
from pipeline.training.evidence.train_params import TrainParams

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy
    from pipeline.method.objectives import Parts, TermsOf
    from pipeline.training.evidence.examples import Evidence, Examples
    from pipeline.training.relative import Relative


class Work(NamedTuple):
    examples: "Examples"
    terms: "TermsOf"
    left_out: int  # answers that could not be used
    steps: tuple[np.ndarray, ...] = ()  # examples of each optimizer step
    matched: budget_matching.Counts | None = None  # what the cap kept and cut, for run.json
    relative: "Relative | None" = None  # weights of a step's examples, where it has to begin first


def gather(
    p: TrainParams, objective: Objective, args: argparse.Namespace, student: "Policy"
) -> Work:
    """Examples and loss of the objective."""
    from pipeline.method.objectives.weighted import everywhere
    from pipeline.training.evidence.examples import Evidence, Examples

    cut = _cut(p, objective, args)
    parts, terms = _gather(p, args, Evidence(p, args, student, cut), objective)
    examples, left_out = Examples(), 0
    for part, out in parts:
        examples.extend(everywhere(part) if getattr(p, "kl_scope", "") == "all" else part)
        left_out += out
    work = Work(examples, terms, left_out, relative=_relative(p, objective))
    return _steps(p, work._replace(matched=budget_matching.counts(cut, args.targets)))


def _relative(p: TrainParams, objective: Objective) -> "Relative | None":
    if objective.relative is None:
        return None
    weigh, its = objective.relative, own(p, objective.settings)
    return lambda example, ratios: weigh(example, ratios, its)


def _steps(p: TrainParams, work: Work) -> Work:
    """With the round's optimizer steps, the first ones where these are capped.

    Without an example it is one step over nothing, which has no signal.
    """
    from pipeline.training.optimizer_steps import order

    count = len(work.examples)
    steps = tuple(order(count, p.batch_size, p.epochs, p.seed, "train", p.round))
    steps = steps or (np.zeros(0, np.int64),)
    if p.match != "optimizer_steps" or p.cap is None:
        return work._replace(steps=steps)
    kept = steps[: int(p.cap)]
    return work._replace(steps=kept, matched=budget_matching.steps(len(kept), len(steps), p.cap))


def _cut(
    p: TrainParams, objective: Objective, args: argparse.Namespace
) -> budget_matching.Cut | None:
    """The responses that experiment.match leaves, None where it cuts no prompt."""
    if p.match in (None, "optimizer_steps") or p.cap is None:
        return None
    # whole solutions are of prompts, also where they are compared with responses
    paths = (None if "solutions" in objective.reads else args.rollouts, args.answers)
    if p.match == "student_tokens":
        priced = budget_matching.student_tokens(*paths, objective.accepted)
    else:
        first = getattr(p, objective.imitated) if objective.imitated else None
        priced = budget_matching.teacher_tokens(*paths, p.price, first)
    return budget_matching.cut(priced, p.cap, p.match)


def _gather(
    p: TrainParams, args: argparse.Namespace, evidence: "Evidence", objective: Objective
) -> "tuple[Parts, TermsOf]":
    """The round's examples, and the loss of a slice."""
    its = own(p, objective.settings)
    terms = chosen("pipeline.method.objectives", file_of(p.objective), "terms")
    if not extensions.named(p.objective):
        parts = chosen("pipeline.method.objectives", file_of(p.objective), "parts")
        return parts(evidence, its), lambda piece: terms(piece, its)
    # a file of the experiment's own is given the tables that its cell reads
    examples = chosen("extensions", file_of(p.objective), "examples")
    corrects = isinstance(its, Corrected) and its.corrects
    names = [name for name in extensions.READS if getattr(args, name)]
    blocks = (dict(zip(["rollouts", *names], x, strict=True)) for x in evidence.beside(*names))
    return ((examples(**block), 0) for block in blocks), lambda piece: terms(piece, corrects)
