"""Rounds in which the teacher had no effect: no signal, no fork, k_sem 0, equal checkpoints."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.data import schemas, tables
from pipeline.method.objectives import declared
from pipeline.report import equal_weights
from pipeline.stage.run_records import Arms, Row, folder, rounds
from pipeline.training import no_signal

FLAT = 0.9  # share of forks with k_sem 0 above which it is said; stage score stops at the same
OWN_WEIGHTS = ("constant", "random", "none", "teacher")  # prior.source: k_sem is not the scores'


def rows(arms: Arms, settings: dict[str, Any], losses: Iterable[Row]) -> list[Row]:
    """A row an arm and seed: rounds and those without a signal, responses and forks, counted.

    `equal_to` are the arms whose last checkpoint of the same seed has the same weights, bytewise.
    `losses` are the metrics of every optimizer step, with arm and seed.
    """
    lines: dict[tuple[str, int], list[Row]] = {}
    for line in losses:
        lines.setdefault((line["arm"], line["seed"]), []).append(line)
    counted, alike = _counted(arms), _alike(arms)
    result = []
    for (arm, seed), own in lines.items():
        trained = no_signal.of_rounds(own)
        reasons = [why for why in trained.values() if why is not None]
        result.append(
            {
                "arm": arm,
                "seed": seed,
                "control": _controls(settings[arm]),
                "rounds": len(trained),
                "rounds_without_signal": len(reasons),
                "reasons": list(dict.fromkeys(reasons)),
                **counted[arm, seed],
                "equal_to": [name for name in alike.get((arm, seed), []) if name != arm],
            }
        )
    return result


def _alike(arms: Arms) -> dict[tuple[str, int], list[str]]:
    """Arms with equal weights after the last round, by each of them and seed."""
    last: dict[int, dict[str, Path]] = {}
    for arm, seed, _, own in rounds(arms):
        if "train" in own:
            last.setdefault(seed, {})[arm] = folder("train", own["train"]) / "checkpoint"
    return {
        (arm, seed): group
        for seed, folders in last.items()
        for group in equal_weights.groups(folders)
        for arm in group
    }


def _controls(s: Row) -> bool:
    """Whether the arm's weights are not the scores of what its teacher wrote of the problem."""
    if s["teach"].get("problem", "own") != "own":
        return True
    source, prior = s["score"]["source"], s["prior"]["source"]
    own = prior not in ("constant", "random", "none", "shuffled-weights")
    changed = source in ("shuffled", "zero") or not own
    return bool("targets" in declared(s["train"]["objective"]).reads and changed)


def _counted(arms: Arms) -> dict[tuple[str, int], dict[str, int]]:
    """Counts of each arm and seed over rounds: responses, those without fork, forks, k_sem of 0."""
    counted: dict[tuple[str, int], dict[str, int]] = {}
    names = ("responses", "without_fork", "forks", "zero_k_sem")
    for arm, seed, _, own in rounds(arms):
        counts = counted.setdefault((arm, seed), dict.fromkeys(names, 0))
        if "forks" not in own or "train" not in own:
            continue
        responses, forked = _responses(own["rollout"], own["forks"])
        counts["responses"] += responses
        counts["without_fork"] += responses - forked
        if "prior" in own:
            forks, zero = _zero(own["prior"])
            counts["forks"] += forks
            counts["zero_k_sem"] += zero
    _responses.cache_clear()
    return counted


@cache
def _responses(rollout: str, forks: str) -> tuple[int, int]:
    """Responses of a cell, and those with a fork: with one that is the first."""
    total = tables.rows(folder("rollout", rollout) / "rollouts.parquet", schemas.ROLLOUTS)
    path = folder("forks", forks) / "forks.parquet"
    groups = tables.stream(path, schemas.FORKS, ["fork"])
    return total, sum(int(pc.sum(pc.equal(g["fork"], 0)).as_py() or 0) for g in groups)


def _zero(prior: str) -> tuple[int, int]:
    """Forks of a cell that were scored, and those whose k_sem is 0."""
    path, total, zero = folder("prior", prior) / "targets.parquet", 0, 0
    for group in tables.stream(path, schemas.TARGETS, ["n", "k_sem"]):
        asked = group["n"].to_numpy() > 0
        total += int(asked.sum())
        zero += int((group["k_sem"].to_numpy()[asked] == 0).sum())
    return total, zero


def untrained(found: Iterable[Row]) -> set[tuple[str, int]]:
    """Arms and seeds of which no round had a signal: they are the base student."""
    return {(row["arm"], row["seed"]) for row in found if _never(row)}


def _never(row: Row) -> bool:
    return bool(0 < row["rounds"] == row["rounds_without_signal"])


def failures(rows: Iterable[Row]) -> list[str]:
    """A sentence for each arm and seed that was to be taught and never was: no verdict on it."""
    return [
        f"No verdict on {row['arm']} (seed {row['seed']}): none of its {row['rounds']} rounds had "
        f"a signal ({_why(row)}). Nothing was trained: its weights are the base student's, byte "
        "for byte, and its rows say nothing of the method. "
        + " ".join(no_signal.REMEDIES[why] for why in row["reasons"])
        for row in rows
        if _never(row) and not row["control"]
    ]


def remarks(rows: Iterable[Row], settings: dict[str, Any]) -> list[str]:
    """Sentences on the rest that had no effect."""
    rows = list(rows)
    said, counts = _equal(rows), dict[str, Row]()
    for row in rows:
        if _never(row) and row["control"]:
            said.append(
                f"{row['arm']} (seed {row['seed']}), a control: none of its {row['rounds']} rounds "
                f"had a signal ({_why(row)}). Its weights are the base student's, byte for byte."
            )
        elif row["reasons"] and not _never(row):
            said.append(
                f"{row['arm']} (seed {row['seed']}): {row['rounds_without_signal']} of "
                f"{row['rounds']} rounds had no signal ({_why(row)}). The checkpoints before and "
                "after such a round are equal, byte for byte."
            )
        total = counts.setdefault(row["arm"], dict.fromkeys(_COUNTS, 0))
        for name in _COUNTS:
            total[name] += row[name]
    for arm, total in counts.items():
        said += _of_counts(arm, total, settings[arm])
    return said


def _equal(rows: list[Row]) -> list[str]:
    """Lines on arms that were trained to the same weights; untrained ones have lines already."""
    never, groups = untrained(rows), dict[tuple[str, ...], list[int]]()
    for row in rows:
        group = tuple(sorted([row["arm"], *row.get("equal_to", [])]))
        if len(group) > 1 and (row["arm"], row["seed"]) not in never and row["arm"] == group[0]:
            groups.setdefault(group, []).append(row["seed"])
    return [
        f"{' and '.join(group)} (seed {', '.join(map(str, seeds))}): equal checkpoints after the "
        "last round, byte for byte. What differs between these arms had no effect."
        for group, seeds in groups.items()
    ]


_COUNTS = ("responses", "without_fork", "forks", "zero_k_sem")


def _of_counts(arm: str, total: Row, s: Row) -> list[str]:
    sentences = []
    if total["without_fork"]:
        sentences.append(
            f"{arm}: {total['without_fork']:,} of {total['responses']:,} responses have no fork; "
            "the teacher said nothing of them."
        )
    meant = s["score"]["source"] == "zero" or s["prior"]["source"] in OWN_WEIGHTS
    if not meant and total["zero_k_sem"] > FLAT * total["forks"]:
        own = "the student's own probability and nothing of the teacher's"
        sentences.append(
            f"{arm}: k_sem is 0 in {total['zero_k_sem']:,} of {total['forks']:,} forks; their "
            f"weight is {own if s['prior']['weight'] == 'posterior' else '0'}."
        )
    return sentences


def _why(row: Row) -> str:
    return "; ".join(f"{why}: {no_signal.REASONS[why]}" for why in row["reasons"])


def section(found: list[Row], settings: dict[str, Any]) -> str:
    """The part of results.md, or nothing."""
    lines = [f"- **{first}**:{rest}" for first, _, rest in map(_cut, failures(found))]
    lines += [f"- {remark}" for remark in remarks(found, settings)]
    return "## Where the teacher had no effect\n\n" + "\n".join(lines) if lines else ""


def _cut(sentence: str) -> tuple[str, str, str]:
    return sentence.partition(":")
