"""A step or a round without a signal trains nothing: weights, moments and step count stay.

The anchor is no signal of its own. At the reference its gradient is rounding noise, and Adam makes
steps of the whole learning rate of noise.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.stage import cells

if TYPE_CHECKING:
    from pipeline.method.objectives import Example, Objective
    from pipeline.training.optimizer import Optimizer
    from pipeline.training.optimizer_steps import Sums

Metrics = dict[str, Any]  # of an optimizer step: a line of metrics.jsonl
LINE = "train/no_signal"  # in a line of a step without a signal: its reason
REASONS = {  # by how much there was: a round has the last of the reasons of its steps
    "no-examples": "no response or answer was left to train on",
    "no-forks": "no response has a fork with tokens to train on",
    "zero-weights": "every weight is zero",
    "equal-values": "no stretch changes the teacher's share of right endings",
    "equal-rewards": "the responses to each prompt have equal rewards",
    "zero-gradient": "the gradient of the signal is exactly zero",
}
REMEDIES = {
    "no-examples": "Raise rollout.max_new_tokens, or use easier problems or a stronger student.",
    "no-forks": "Lower forks.chunk_tokens, or raise rollout.max_new_tokens.",
    "zero-weights": "Look at score.metric, prior.weight, prior.alpha and train.baseline.",
    "equal-values": "Use problems that the teacher ends right sometimes, or raise teach.samples.",
    "equal-rewards": "Use problems that the student solves sometimes, or sample more responses.",
    "zero-gradient": "Use a teacher that differs from the student.",
}


def reason(examples: Iterable["Example"], objective: "Objective") -> str:
    """Why these examples have no signal, one of REASONS, if their gradient is exactly zero."""
    sequences = [s for example in examples for s in example.sequences]
    if not any(len(s.token_ids) for s in sequences):
        return "no-examples"
    if not any(s.signal_T.any() for s in sequences):
        return "no-forks" if objective.at_forks else "no-examples"
    if not any(s.weight_T[s.signal_T].any() for s in sequences):
        return objective.zero_weights
    return "zero-gradient"


def step(
    optimizer: "Optimizer",
    sums: "Sums",
    found: Metrics,
    examples: Sequence["Example"],
    objective: "Objective",
) -> Metrics:
    """Take the step of `sums`, whose metrics are `found`, unless it has no signal.

    Returns `found` with what the optimizer did and, of a step that was not taken, the reason.
    """
    if not sums.has_signal:
        return found | optimizer.stay() | {LINE: reason(examples, objective)}
    return found | optimizer.step(sums.grads)


def of_round(metrics: Sequence[Metrics]) -> str | None:
    """Why a round of these steps has no signal; None if a step was taken."""
    found = {line.get(LINE) for line in metrics}
    if not found or None in found:
        return None
    return [why for why in REASONS if why in found][-1]


def of_rounds(metrics: Iterable[Metrics]) -> dict[int, str | None]:
    """The same by round, of the lines of several rounds in order."""
    rounds = groupby(metrics, lambda line: int(line["round"]))
    return {round_: of_round(list(lines)) for round_, lines in rounds}


def counts(metrics: Sequence[Metrics]) -> Metrics:
    """The counts for run.json: steps that were not taken, rounds (0 or 1), the round's reason."""
    why = of_round(metrics)
    found: Metrics = {
        "steps_without_signal": sum(LINE in line for line in metrics),
        "rounds_without_signal": int(why is not None),
    }
    return found if why is None else found | {"no_signal": why}


def tell(cell: str, metrics: Sequence[Metrics], left_out: int) -> None:
    """Log that nothing was trained, or which part was not; nothing where every step was taken."""
    why, skipped = of_round(metrics), sum(LINE in line for line in metrics)
    if why is not None:
        out = f" {left_out} answers were wrong or cut, and left out." if left_out else ""
        cells.log.warning(
            f"train {cell}: the round has no signal ({why}: {REASONS[why]}).{out} Weights, moments "
            f"and step count stay as they were. {REMEDIES[why]}"
        )
    elif skipped:
        cells.log.info(
            f"train {cell}: {skipped} of {len(metrics)} optimizer steps had no signal and were not "
            "taken"
        )
