"""How often the intervals over seeds and problems hold the truth: `python -m tests.coverage`.

Written before it ran. The tables: accuracy of problem p under seed s of an arm is logistic(level +
difficulty_p + own_p + seed_s), normal with sd 1.5, .7 and .3; difficulty is common to both arms,
the rest is not. The truth is the mean over problems and seeds, by the quadrature of Gauss and
Hermite. `floor` has a mean accuracy of .01 in one arm and 1 logit more in the other, `ceiling` the
same of wrong answers, `middle` .4 and half a logit, `zero` no right answer. The method: exact
limits at the effective number of answers (pipeline/analysis/rare.py) for accuracies everywhere and
for differences where few problems tell, else t as in pipeline/analysis/seeds_by_problems.py.
Expected: .93 or more in all cases; .94 to .98 in the middle; up to 1 at floor and ceiling, where
exact limits are wider.

Method and FEW were chosen on other draws (300 to 600 a case, the same kind of tables, other seeds,
means of .003 to .4): t alone covered .24 to .96 of accuracies near the floor and .59 to .99 of
differences; with limits below 20 problems .938 or more. What is reported is drawn from REPORTED.

`collapse` is the middle with one arm of which a fifth of the seeds loses nearly everything. No
interval covers that, and the docstring of pipeline/analysis/seeds_by_problems.py says by how much
it fails.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator

import numpy as np

from pipeline.analysis import seeds_by_problems

REPORTED = 20261129  # seed of the table that is reported; never used to choose anything
SEEDS, PROBLEMS, SAMPLES = (3, 5, 10), (30, 600), (1, 4)
DIFFICULTY, OWN, SEED = 1.5, 0.7, 0.3  # sd on the logit scale
LEVELS = {"floor": (0.01, 1.0), "ceiling": (0.99, -1.0), "middle": (0.4, 0.5)}
COLLAPSE = 0.2  # share of seeds that lose nearly everything, of the case `collapse`
LOST = 4.0  # logits
CELLS = 1_000_000  # at once
KINDS = ("accuracy", "difference")


def logistic(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def mean_of(level: float) -> float:
    """Mean accuracy at this level."""
    sd = math.sqrt(DIFFICULTY**2 + OWN**2 + SEED**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((logistic(level + sd * nodes) * weights).sum() / weights.sum())


def level_of(accuracy: float) -> float:
    """The level with this mean accuracy."""
    from scipy.optimize import brentq

    return float(brentq(lambda level: mean_of(level) - accuracy, -30, 30))


def drawn(
    draw: np.random.Generator, levels: tuple[float, float], shape: tuple[int, int, int], k: int,
    collapse: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Shares of correct samples of two arms, (R, S, P) each, on the same problems.

    A share `collapse` of the seeds of the first arm loses nearly everything.
    """
    R, S, P = shape
    difficulty = DIFFICULTY * draw.standard_normal((R, 1, P), np.float32)
    arms = []
    for level, share in zip(levels, (collapse, 0.0), strict=True):
        logit = level + difficulty + OWN * draw.standard_normal((R, 1, P), np.float32)
        seed = SEED * draw.standard_normal((R, S, 1), np.float32)
        lost = LOST * (draw.random((R, S, 1)) < share)
        p = logistic(logit + seed - lost.astype(np.float32))
        arms.append(sum((draw.random(p.shape, np.float32) < p).astype(float) for _ in range(k)) / k)
    return arms[0], arms[1]


def covered(
    region: str, S: int, P: int, k: int, replicates: int, seed: int, collapse: float = 0.0
) -> dict[str, float]:
    """Share of `replicates` intervals that hold the truth, by kind; none of them is NaN."""
    draw = np.random.default_rng([seed, S, P, k, sum(region.encode())])
    levels, truth = _truth(region, collapse)
    held = dict.fromkeys(KINDS, 0)
    for R in _sizes(replicates, max(1, CELLS // (S * P))):
        one, other = drawn(draw, levels, (R, S, P), k, collapse)
        for kind, table, lowest in zip(KINDS, (one, other - one), (0.0, -1.0), strict=True):
            low, high, *_ = seeds_by_problems.limits(table, lowest)
            if not np.isfinite([low, high]).all():
                raise ValueError(f"{region}: an interval of {kind} is not finite")
            held[kind] += int(((low <= truth[kind]) & (truth[kind] <= high)).sum())
    return {kind: count / replicates for kind, count in held.items()}


def _truth(region: str, collapse: float) -> tuple[tuple[float, float], dict[str, float]]:
    if region == "zero":
        return (-math.inf, -math.inf), {"accuracy": 0.0, "difference": 0.0}
    accuracy, gain = LEVELS[region]
    level = level_of(accuracy)
    one = (1 - collapse) * mean_of(level) + collapse * mean_of(level - LOST)
    return (level, level + gain), {"accuracy": one, "difference": mean_of(level + gain) - one}


def _sizes(total: int, most: int) -> Iterator[int]:
    while total > 0:
        yield min(most, total)
        total -= most


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the 95 % intervals.")
    parser.add_argument("--draws", type=int, default=4000, help="tables a case")
    parser.add_argument("--seed", type=int, default=REPORTED)
    parser.add_argument("--regions", nargs="*", default=["floor", "ceiling", "middle", "zero"])
    args = parser.parse_args()
    say("| region | seeds | problems | k | accuracy | difference |\n|---|---|---|---|---|---|")
    for region in args.regions:
        for S, P, k in itertools.product(SEEDS, PROBLEMS, SAMPLES):
            collapse = COLLAPSE if region == "collapse" else 0.0
            name = "middle" if collapse else region
            found = covered(name, S, P, k, args.draws, args.seed, collapse)
            numbers = " | ".join(f"{found[kind]:.4f}" for kind in KINDS)
            say(f"| {region} | {S} | {P} | {k} | {numbers} |")


if __name__ == "__main__":
    main()
