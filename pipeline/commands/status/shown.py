"""A look as text for people, and as JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from pipeline.commands.status.look import STATES, Look, State, Told

MOST = 20  # waiting cells, or ready ones, that are listed without --all
NAMED = 3  # cells that one waits for, by name
INDENT = "    "


def text(look: Look, every: bool) -> str:
    """Counts by arm, then a line a cell: each, or those that are not done."""
    parts = [_head(look), _counts(look.cells)]
    for state in STATES:
        own = [one for one in look.cells if one.state == state]
        if own and (every or state not in ("done", "cached")):
            parts.append("\n".join(_listed(state, own, every)))
    return "\n\n".join(parts)


def document(look: Look) -> str:
    """The same as JSON, all cells."""
    spent = None if look.spent is None else asdict(look.spent)
    found = {
        "counts": look.counts,
        "commands": list(look.commands),
        "spent": spent,
        "failures": dict(look.failures),
        "notes": list(look.notes),
        "cells": [_values(one) for one in look.cells],
    }
    return json.dumps(found, allow_nan=False)


def _values(one: Told) -> dict[str, Any]:
    writer = one.writer
    found: dict[str, Any] = {
        "cell": one.cell,
        "arm": one.arm,
        "seed": one.seed,
        "what": one.what,
        "state": one.state,
        "seconds": one.seconds,
        "waits_for": list(one.waits_for),
        "reason": one.reason,
    }
    if writer is not None:
        found |= {"host": writer.host, "pid": writer.pid, "since": writer.since}
        found |= {"progress": progress(writer.state), "lines": writer.state.get("lines", [])}
        found |= {"training": dict(one.training)}
    return found


def progress(state: dict[str, Any]) -> dict[str, Any] | None:
    """How far a stage is by its own bar: steps, of how many, steps a second, seconds left."""
    if "done" not in state:
        return None
    done, total, rate = state["done"], state["total"], state["per_second"]
    left = (total - done) / rate if total and rate > 0 else None
    return {
        "what": state["what"],
        "done": done,
        "total": total,
        "per_second": rate,
        "left_seconds": left,
    }


def _head(look: Look) -> str:
    count = len(look.cells)
    took = sum(one.seconds or 0.0 for one in look.cells if one.state == "done")
    done = f"; those done took {duration(took)}" if took else ""
    lines = [f"{count} cells: {_joined(look.counts)}{done}"]
    lines += [f"at work: {', '.join(look.commands)}"] if look.commands else []
    if look.spent is not None:
        lines.append(
            f"teachers so far: ${look.spent.usd:.2f}, {look.spent.requests:,} requests, "
            f"{look.spent.bought:,} answers bought, {look.spent.reused:,} found in the store; "
            f"{_failed(look)}"
        )
    return "\n".join([*lines, *look.notes])


def _failed(look: Look) -> str:
    total = sum(look.failures.values())
    named = ", ".join(f"{name} {count:,}" for name, count in sorted(look.failures.items()))
    return f"{total:,} draws failed" + (f" ({named})" if named else "")


def _joined(counts: dict[State, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _counts(cells: Iterable[Told]) -> str:
    """A line for each arm, over its seeds."""
    found: dict[str, Counter[str]] = {}
    for one in cells:
        found.setdefault(one.arm, Counter())[one.state] += 1
    shown = [state for state in STATES if any(own[state] for own in found.values())]
    body = [[arm, *(own[state] or "" for state in shown)] for arm, own in found.items()]
    return tabulate(body, ["", *shown], tablefmt="plain")


def _listed(state: State, cells: list[Told], every: bool) -> Iterator[str]:
    yield f"{state}:"
    most = len(cells) if every or state in ("running", "failed") else MOST
    rows = [[_place(one), one.cell, _line(one)] for one in cells[:most]]
    lines = tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines()
    for one, line in zip(cells[:most], lines, strict=True):
        yield f"  {line}".rstrip()
        if one.state == "failed" and one.writer is not None:
            yield from (f"{INDENT}| {line}" for line in one.writer.state.get("lines", ()))
    if len(cells) > most:
        yield f"  and {len(cells) - most} more: --all lists them"


def _place(one: Told) -> str:
    return f"{one.arm} {one.seed.replace('-', ' ')}".rstrip()


def _line(one: Told) -> str:
    match one.state:
        case "done":
            return one.what + ("" if one.seconds is None else f", {duration(one.seconds)}")
        case "waiting":
            more = f" and {len(one.waits_for) - NAMED} more" if len(one.waits_for) > NAMED else ""
            return f"{one.what}, for {', '.join(one.waits_for[:NAMED])}{more}"
        case "running" if one.writer is not None:
            since = f"{one.writer.where} since {one.writer.since}"
            took = "" if one.seconds is None else f", {duration(one.seconds)}"
            parts = f"{one.what}, {since}{took}{_bar(one.writer.state)}", *training(one.training)
            return "; ".join(filter(None, parts))
        case "failed" if one.writer is not None:
            reason = one.reason + _bar(one.writer.state)
            return f"{one.what}, {one.writer.where} since {one.writer.since}: {reason}"
    return one.what + (f", {one.reason}" if one.reason else "")


def _bar(state: dict[str, Any]) -> str:
    if (found := progress(state)) is None:
        return ""
    of = f" of {found['total']:,}" if found["total"] else ""
    left = "" if found["left_seconds"] is None else f", {duration(found['left_seconds'])} left"
    return f": {found['what']} {found['done']:,}{of}, {found['per_second']:.3g}/s{left}"


def training(found: Mapping[str, Any]) -> tuple[str, str]:
    """How a train cell goes, and what it learns from; empty where that is not known."""
    own = [f"{name} {found[name]:.3g}" for name in ("drift", "loss") if name in found]
    named = [name for name in ("weight", "entropy", "length") if name in found]
    means = [f"{name} {found[name]:.3g}" for name in named]
    means += [f"truncated {found['truncated']:.1%}"] if "truncated" in found else []
    step = f"after step {found['step']:,}: {', '.join(own)}" if own else ""
    return step, f"means: {', '.join(means)}" if means else ""


def duration(seconds: float) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"
