"""The examples and the loss of a train cell's objective, from the tables of its round."""

import argparse
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pipeline.config import params
from pipeline.config.method import Baseline, Lora
from pipeline.config.teachers import Price
from pipeline.core import extensions
from pipeline.core.chosen import chosen, file_of
from pipeline.core.errors import UserError
from pipeline.data import prompts
from pipeline.engines import checkpoints
from pipeline.training.evidence import budget_matching

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy
    from pipeline.method.objectives import Example, TermsOf
    from pipeline.training.evidence.examples import Evidence, Examples

    Parts = Iterator[tuple[list[Example], int]]  # examples of some responses, and how many left out


class TrainParams(params.Params):
    objective: str
    lr: params.Positive
    batch_size: params.Count
    micro_batch_size: params.Count
    epochs: params.Count
    reduce: str
    optimizer: str
    betas: tuple[float, float]
    warmup_steps: int
    clip: params.Positive
    beta: params.NonNegative = 0.0  # omniopd, imitate-forks
    correction: str = "none"  # omniopd
    answers: params.Count = 1  # imitate-forks
    jsd_beta: params.Share = 0.5  # gkd
    baseline: Baseline = "none"  # omniopd
    metric: str = ""  # of baseline teacher-agreement
    samples: params.Count = 1  # N, of the same
    anchor: str = "outside"  # objectives with an anchor
    lora: Lora | None = None
    moment_bits: Literal[8] | None = None
    seed: int
    round: params.Count
    prompts_per_round: params.Count  # sft: which slice of the pool
    match: params.Resource | None = None  # the resource that the round's evidence is cut by
    cap: params.Positive | None = None  # of it, a round
    price: Price | None = None  # of the teacher, where the resource is usd


class Work(NamedTuple):
    examples: "Examples"
    terms: "TermsOf"
    left_out: int  # answers that could not be used
    steps: tuple[np.ndarray, ...] = ()  # examples of each optimizer step
    matched: budget_matching.Counts | None = None  # what the cap kept and cut, for run.json


def gather(p: TrainParams, args: argparse.Namespace, student: "Policy") -> Work:
    """Examples and loss of the objective."""
    from pipeline.method.objectives.weighted import everywhere
    from pipeline.training.evidence.examples import Evidence, Examples

    cut = _cut(p, args)
    parts, terms = _gather(p, args, student, Evidence(args, cut))
    examples, left_out = Examples(), 0
    for part, out in parts:
        examples.extend(everywhere(part) if p.anchor == "all" else part)
        left_out += out
    work = Work(examples, terms, left_out)
    return _steps(p, work._replace(matched=budget_matching.counts(cut, args.targets)))


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


def _cut(p: TrainParams, args: argparse.Namespace) -> budget_matching.Cut | None:
    """The responses that experiment.match leaves, None where it cuts no prompt."""
    if p.match in (None, "optimizer_steps") or p.cap is None:
        return None
    paths, only_right = (args.rollouts, args.answers), p.objective == "rft"
    if p.match == "student_tokens":
        priced = budget_matching.student_tokens(*paths, only_right)
    else:
        first = p.answers if p.objective == "imitate-forks" else None
        priced = budget_matching.teacher_tokens(*paths, p.price, first)
    return budget_matching.cut(priced, p.cap, p.match)


def _gather(
    p: TrainParams, args: argparse.Namespace, student: "Policy", evidence: "Evidence"
) -> "tuple[Parts, TermsOf]":
    """Of the objectives that train on the student's own tokens."""
    rollouts = (block for (block,) in evidence.beside())
    match p.objective:
        case "omniopd":
            from pipeline.method.objectives import omniopd

            return _weighted(p, args, evidence), omniopd.terms
        case "opd":
            from pipeline.method.objectives import opd

            return ((opd.examples(block), 0) for block in rollouts), opd.terms
        case "opd-sampled":
            from pipeline.method.objectives import opd_sampled

            return ((opd_sampled.examples(block), 0) for block in rollouts), opd_sampled.terms
        case "gkd":
            from pipeline.method.objectives import gkd

            terms = functools.partial(gkd.terms, jsd_beta=p.jsd_beta)
            return ((gkd.examples(block), 0) for block in rollouts), terms
        case "opd-forks":
            from pipeline.method.objectives import opd_forks

            blocks = evidence.beside("forks")
            return ((opd_forks.examples(*block), 0) for block in blocks), opd_forks.terms
        case "grpo":
            from pipeline.method.objectives import grpo

            advantage_B = grpo.weights(evidence.columns("rollouts", ["rollout_id", *grpo.READ]))
            blocks = evidence.valued(advantage_B)
            return ((grpo.weighted(*block), 0) for block in blocks), grpo.terms
        case "rft":
            from pipeline.method.objectives import rft

            return map(rft.examples, rollouts), rft.terms
        case _:
            return _imitated(p, args, student, evidence)


def _weighted(p: TrainParams, args: argparse.Namespace, evidence: "Evidence") -> "Parts":
    """Of omniopd: what is taken off the weights is of the whole round."""
    from pipeline.method.objectives import omniopd

    if p.baseline == "none":
        yield from ((omniopd.examples(*block), 0) for block in evidence.beside("targets"))
        return
    targets, agreed = evidence.columns("targets", ["rollout_id", "position", "pi_hat"]), None
    if p.baseline == "teacher-agreement":
        from pipeline.method.teacher_agreement import agreement

        tokenizer = checkpoints.tokenizer(args.policy / "checkpoint" / "tokenizer.json")
        how = (p.samples, p.metric, tokenizer)
        agreed = agreement(targets, evidence.each("answers"), *how)
    own = evidence.columns("rollouts", ["rollout_id", "prompt_id"])
    weight_F = omniopd.weights(own, targets, p.baseline, agreed)
    yield from ((omniopd.weighted(*block), 0) for block in evidence.valued(weight_F, "targets"))


def _imitated(
    p: TrainParams, args: argparse.Namespace, student: "Policy", evidence: "Evidence"
) -> "tuple[Parts, TermsOf]":
    """Of the objectives that train on what the teacher wrote."""
    match p.objective:
        case "sft":
            from pipeline.method.objectives import sft

            start_row = (p.round - 1) * p.prompts_per_round
            problems = prompts.read(args.prompts, "train", start_row, p.prompts_per_round)
            ids = {x.prompt_id: student.prompt_ids(x.messages) for x in problems}
            solved = evidence.each("answers")
            return (sft.examples(part, ids, student.ends[0]) for part in solved), sft.terms
        case "imitate-forks":
            from pipeline.method.objectives import imitate_forks

            how = (p.answers, student.ends[0])
            made = (
                imitate_forks.examples(rollouts, forks, answers, *how)
                for rollouts, forks, answers in evidence.beside("forks", "answers")
            )
            return ((part, 0) for part in made), imitate_forks.terms
        case _ if extensions.named(p.objective):
            return _own(p, args, evidence)
        case _:
            raise UserError(f"train.objective: {p.objective!r} is unknown. Run `omniopd plan`.")


def _own(p: TrainParams, args: argparse.Namespace, evidence: "Evidence") -> "tuple[Parts, TermsOf]":
    """Of a file of the experiment's own, which is given the tables that its cell reads."""
    examples = chosen("extensions", file_of(p.objective), "examples")
    terms = chosen("extensions", file_of(p.objective), "terms")
    names = [name for name in extensions.READS if getattr(args, name)]
    blocks = (dict(zip(["rollouts", *names], x, strict=True)) for x in evidence.beside(*names))
    return ((examples(**block), 0) for block in blocks), terms
