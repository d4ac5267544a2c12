"""Signs that a student collapses, of a round's rollouts and weights, and alarms that stop a run.

    tokens          mean length of a response
    repeated        share of a response's stretches of four tokens that stand earlier in it, mean
    entropy         nats a token, mean over all tokens
    weights_at_0, weights_at_1
                    shares of the round's chunks whose weight is 0, or 1
    effective_chunks
                    (sum w)^2 / (sum w^2): of so many chunks of equal weight the round consists; one
                    number for how many of the bought answers still say something
    drift           the largest train/drift of a step, nats a token (pipeline/training/gradients.py)

They go to run.json. An alarm is a setting of block alarms, null where it is off; it reads the same
numbers and is part of no cell, since it stops a run and changes none.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline.config import params_file
from pipeline.config.alarms import Alarms
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables

STRETCH = 4  # tokens
ROUNDING = 1e-9  # of a weight of 1
LIMITS = {  # by alarm: what it reads
    "least_tokens": "tokens",
    "most_tokens": "tokens",
    "most_repeated": "repeated",
    "least_entropy": "entropy",
    "most_weights_at_0": "weights_at_0",
    "most_weights_at_1": "weights_at_1",
    "least_effective_chunks": "effective_chunks",
    "most_drift": "drift",
}
SIGNS = tuple(dict.fromkeys(LIMITS.values()))
REMEDIES = {
    "tokens": "Look at the rollouts: a student that stops at once, or never, has collapsed.",
    "repeated": "Look at the rollouts. Raise train.beta, lower train.lr, or go back a round.",
    "entropy": "Raise train.beta, lower train.lr or train fewer rounds.",
    "weights_at_0": "Look at score.metric: nothing is left to learn from these chunks.",
    "weights_at_1": "All chunks are reinforced alike. Use prior.weight excess, or stop here.",
    "effective_chunks": "Few chunks carry the round. Look at score.metric and prior.weight.",
    "drift": "Lower train.lr, raise train.batch_size, or set train.importance_ratio: ratio.",
}


def repeated(ids: Sequence[int]) -> float:
    """Share of a text's stretches of STRETCH tokens that stand earlier in it."""
    stretches = [tuple(ids[i : i + STRETCH]) for i in range(len(ids) - STRETCH + 1)]
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


def seen(rollouts: Path | None, targets: Path | None) -> dict[str, float]:
    """The signs in these tables, where the objective reads them; none of a table without a row."""
    return (_written(rollouts) if rollouts else {}) | (_weighed(targets) if targets else {})


def _written(rollouts: Path) -> dict[str, float]:
    count = tokens = 0
    nats = again = 0.0
    for group in tables.stream(rollouts, schemas.ROLLOUTS, ["token_ids", "entropies"], 128):
        count += len(group)
        nats += pc.sum(pc.list_flatten(group["entropies"])).as_py() or 0.0
        for ids in group["token_ids"].to_pylist():
            tokens, again = tokens + len(ids), again + repeated(ids)
    if not count:
        return {}
    shares = {"tokens": tokens / count, "repeated": again / count}
    return shares | {"entropy": nats / max(tokens, 1)}


def _weighed(targets: Path) -> dict[str, float]:
    groups = tables.stream(targets, schemas.TARGETS, ["weight"])
    weight_F = np.concatenate([np.zeros(0), *(group["weight"].to_numpy() for group in groups)])
    if not len(weight_F):
        return {}
    squares = float((weight_F**2).sum())
    return {
        "weights_at_0": float((weight_F == 0).mean()),
        "weights_at_1": float((weight_F >= 1 - ROUNDING).mean()),
        "effective_chunks": float(weight_F.sum()) ** 2 / squares if squares else 0.0,
    }


def check(where: str, signs: Mapping[str, float], alarms: Alarms) -> None:
    """Raise UserError where a sign is beyond an alarm. `where` names what it is of."""
    for alarm, sign in LIMITS.items():
        limit, found = getattr(alarms, alarm), signs.get(sign)
        if limit is None or found is None:
            continue
        low = alarm.startswith("least_")
        if found < limit if low else found > limit:
            bound, move = ("at least", "lower") if low else ("at most", "raise")
            raise UserError(
                f"{where}: found {sign} {found:.4g}, wanted {bound} alarms.{alarm} = {limit:g}. "
                f"{REMEDIES[sign]} Or {move} the alarm, or set it to null, and run it again."
            )


def drift(metrics: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The largest drift of some steps; nothing where none was of the student's own tokens."""
    found = [float(line["train/drift"]) for line in metrics if "train/drift" in line]
    return {"drift": max(found)} if found else {}


def of_round(args: argparse.Namespace) -> dict[str, float]:
    """The signs of a round, before it is trained on. Raises UserError where an alarm fires."""
    found = seen(args.rollouts, args.targets)
    check(f"train {args.cell}", found, read())
    return found


def of_step(args: argparse.Namespace, metrics: Mapping[str, Any]) -> None:
    """Raise UserError where an alarm fires at what a step saw."""
    check(f"train {args.cell}, step {metrics['step']}", drift([metrics]), read())


def read() -> Alarms:
    return params_file.free("alarms", Alarms)
