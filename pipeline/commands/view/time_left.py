"""How long a run still takes, told from the cells that are done."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import mean
from typing import NamedTuple

from pipeline.commands.status.look import Look, Told
from pipeline.commands.status.shown import progress


class Left(NamedTuple):
    seconds: float  # as many cells at a time as run now
    unknown: int  # cells left out: of their kind none is done, and they say nothing themselves


def left(look: Look) -> Left | None:
    """Of the cells that are to run; None where all are done, or nothing is known of any.

    A cell takes the mean of those done of its kind. One that runs takes what is missing to that,
    or what its own bar says.
    """
    took = defaultdict[str, list[float]](list)
    for one in look.cells:
        if one.state == "done" and one.seconds is not None:
            took[_kind(one)].append(one.seconds)
    means = {kind: mean(seconds) for kind, seconds in took.items()}
    open_ = [one for one in look.cells if one.state not in ("done", "cached")]
    known = [seconds for one in open_ if (seconds := _seconds(one, means)) is not None]
    if not known:
        return None
    side_by_side = max(sum(one.state == "running" for one in open_), 1)
    longest = max(known)
    return Left(max(sum(known) / side_by_side, longest), len(open_) - len(known))


def _kind(one: Told) -> str:
    return one.cell.partition("@")[0]


def _seconds(one: Told, means: Mapping[str, float]) -> float | None:
    usual = means.get(_kind(one))
    if one.state != "running":
        return usual
    bar = progress(one.writer.state) if one.writer is not None else None
    told = bar["left_seconds"] if bar is not None else None
    if usual is None or one.seconds is None:
        return None if told is None else float(told)
    return max(usual - one.seconds, float(told or 0.0))
