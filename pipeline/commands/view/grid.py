"""The cells of a look by arm and round, in as many columns and rows as fit."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from typing import NamedTuple

from pipeline.commands.status.look import STATES, Look, State

Counts = Mapping[State, int]
OVER: tuple[State, ...] = ("done", "cached")
MOVING: tuple[State, ...] = ("running", "failed")


class Grid(NamedTuple):
    """Counts of cells in each state."""

    rounds: Sequence[str]  # names of columns
    arms: Mapping[str, Sequence[Counts]]  # a row each
    more: int  # arms that are left out


def grid(look: Look, columns: int, rows: int) -> Grid:
    """At most so many columns and rows: rounds before and after those at work are put together,
    arms in which nothing moves left out first."""
    states = {one.cell: one.state for one in look.cells}
    rounds = dict.fromkeys(name for own in look.rounds.values() for name in own)
    ordered = sorted(rounds, key=lambda name: int(name.rpartition("-")[2]))
    spans = _spans(ordered, _at_work(look, ordered, states), columns)
    arms = {
        arm: [_counts(states, _cells(own, span)) for span in spans]
        for arm, own in look.rounds.items()
    }
    kept = _kept(arms, rows)
    named = {arm: counts for arm, counts in arms.items() if arm in kept}
    return Grid([_name(span) for span in spans], named, len(arms) - len(kept))


def total(counts: Sequence[Counts]) -> Counts:
    """Sums over some counts."""
    found = Counter[State]()
    for one in counts:
        found.update(one)
    return found


def _cells(own: Mapping[str, Set[str]], span: Sequence[str]) -> set[str]:
    return set().union(*(own.get(round_, set()) for round_ in span))


def _counts(states: Mapping[str, State], cells: Collection[str]) -> Counts:
    found = Counter(states[cell] for cell in cells)
    return {state: found[state] for state in STATES if found[state]}


def _at_work(look: Look, rounds: Sequence[str], states: Mapping[str, State]) -> int:
    """The place of the first round that has a cell to do; of the last if there is none."""
    for place, round_ in enumerate(rounds):
        cells = (cell for own in look.rounds.values() for cell in own.get(round_, ()))
        if any(states[cell] not in OVER for cell in cells):
            return place
    return max(len(rounds) - 1, 0)


def _spans(rounds: Sequence[str], at: int, columns: int) -> list[Sequence[str]]:
    """Rounds in at most `columns` columns, that at place `at` in one of its own if there are
    three."""
    if len(rounds) <= columns:
        return [[one] for one in rounds]
    if columns < 3:
        return [rounds]
    alone = columns - 2  # beside what is before them, and what comes after
    begin = min(max(at - (alone - 1) // 2, 1), len(rounds) - 1 - alone)
    found = [rounds[:begin], *([one] for one in rounds[begin : begin + alone])]
    return [*found, rounds[begin + alone :]]


def _name(span: Sequence[str]) -> str:
    names = ["base" if one == "round-0" else one.replace("-", " ") for one in span]
    if len(span) == 1:
        return names[0]
    last = names[-1] if names[0] == "base" else names[-1].removeprefix("round ")
    return f"{names[0]} to {last}"


def _kept(arms: Mapping[str, Sequence[Counts]], rows: int) -> set[str]:
    """Arms that are shown: those where something runs or failed, that are begun, the others."""

    def rank(arm: str) -> int:
        counts = total(arms[arm])
        if any(counts[state] for state in MOVING if state in counts):
            return 0
        return 2 if set(counts) <= {*OVER} else 1

    return set(sorted(arms, key=rank)[: max(rows, 1)])
