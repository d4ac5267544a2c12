"""What a look shows over several seeds: means with intervals over seeds x prompts."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.analysis import bootstrap, pooled, seeds_by_problems


class Pooled(NamedTuple):
    """Of one arm. `diff`: of its difference from the untrained student, paired by seed and prompt;
    None where there is nothing to compare with."""

    mean: bootstrap.Interval
    diff: bootstrap.Interval | None
    prompts: int  # that every seed of both has


def pool(own: pooled.Seeds, base: pooled.Seeds | None = None) -> Pooled | None:
    """None of fewer than two seeds, and where no prompt is in all of them."""
    if len(own) < 2:
        return None
    both = [own] if base is None or base.keys() != own.keys() else [own, base]
    shared = set.intersection(*(set(g.problems) for one in both for g in one.values()))
    if not shared:
        return None
    first, *rest = (_of(one, sorted(shared)) for one in both)
    diff = seeds_by_problems.difference(first, rest[0]).interval if rest else None
    return Pooled(seeds_by_problems.accuracy(first).interval, diff, len(shared))


def _of(arm: pooled.Seeds, prompts: Sequence[str]) -> pooled.Seeds:
    """The same on these prompts."""
    found = {}
    for seed, graded in arm.items():
        share = dict(zip(graded.problems, graded.share_B.tolist(), strict=True))
        found[seed] = bootstrap.graded(prompts, [share[name] for name in prompts])
    return found
