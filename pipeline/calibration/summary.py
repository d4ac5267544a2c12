"""Calibration in the report: rows of JSON, a line beside the results, a table, warnings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from pipeline.calibration import Row, warns
from pipeline.data import schemas, tables
from pipeline.stage.run_records import Arms, folder, rounds

COLUMNS = {  # of results.md, by quantity
    "own": "own fork",
    "floor/other-fork": "other fork",
    "floor/other-problem": "other problem",
    "ceiling/teacher": "teacher twice",
    "ceiling/student": "student twice",
    "contrast/other-fork": "contrast",
    "contrast/within-state": "in a state",
    "auroc/other-fork": "AUROC fork",
    "reliability": "reliability",
    "recommended": "N enough",
    "correct/response": "AUROC correct",
}
INTERVALS = {"contrast/other-fork", "correct/response"}
LEGEND = (
    "Similarity of the student's chunk with the teacher's continuations of its own fork, of "
    "another fork of the same response, and of another problem; of two continuations, and of "
    "two of the student's chunks in one state. Contrast is own minus other fork: what a metric "
    "knows of the fork rather than of the topic. In a state: how far the scores of different "
    "chunks at one prefix lie apart, which noise in N answers holds above 0 even without a "
    "contrast. AUROC fork: chance that a continuation of the own fork is more similar than one "
    "of another. N enough: answers a fork whose mean has a reliability of .8. AUROC correct: "
    "how well a response's mean score tells that it is correct. A contrast with other forks "
    "below 0.03, or whose interval holds zero, predicts no learning. Every quantity with its "
    "interval, for every arm, seed and calibrated round, is in calibration.json."
)


@dataclass
class Calibrated:
    """One cell of stage calibrate and the arms that use it."""

    arms: list[str]
    seed: int
    round: int
    teacher: str
    rows: list[Row]

    def value(self, metric: str, tokens: int, quantity: str) -> Row | None:
        place = (metric, tokens, quantity)
        keys = ("metric", "chunk_tokens", "quantity")
        return next((r for r in self.rows if tuple(r[k] for k in keys) == place), None)


def gather(arms: Arms, settings: dict[str, Any]) -> list[Calibrated]:
    """The plan's calibrations in its order, one that arms share once."""
    found: dict[str, Calibrated] = {}
    for arm, seed, round_, cells in rounds(arms):
        for stage, key in cells.items():
            if stage.partition("-")[0] != "calibrate":
                continue
            if key not in found:
                path = folder(stage, key) / "calibration.parquet"
                table = tables.read(path, schemas.CALIBRATION).to_pylist()
                teacher = stage.partition("-")[2] or settings[arm]["teach"]["teacher"]
                found[key] = Calibrated([], seed, round_, teacher, table)
            found[key].arms.append(arm)
    return list(found.values())


def rows(calibrated: Sequence[Calibrated]) -> list[Row]:
    """The rows of calibration.json: those of the tables with arm, seed, round and teacher."""
    return [
        {"arm": arm, "seed": c.seed, "round": c.round, "teacher": c.teacher, **row}
        for c in calibrated
        for arm in c.arms
        for row in c.rows
    ]


def dumped(found: Sequence[Row]) -> str:
    """calibration.json, a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in found) + "\n]\n"


def shown(calibrated: Sequence[Calibrated]) -> list[Calibrated]:
    """Those of the first seed and of their arms' first calibrated round."""
    seed = min((c.seed for c in calibrated), default=0)
    own = [c for c in calibrated if c.seed == seed and c.rows]
    first = {arm: min(c.round for c in own if arm in c.arms) for c in own for arm in c.arms}
    return [c for c in own if any(first[arm] == c.round for arm in c.arms)]


def line(calibrated: Sequence[Calibrated], settings: dict[str, Any]) -> str:
    """The contrast of each arm's own metric and chunk, to be read beside its result; of the first
    seed, as in the section."""
    parts, seed = [], min((c.seed for c in calibrated), default=0)
    for c in (c for c in calibrated if c.seed == seed):
        for arm in c.arms:
            score, tokens = settings[arm]["score"], settings[arm]["forks"]["chunk_tokens"]
            row = c.value(score["metric"], tokens, "contrast/other-fork")
            if row is not None and row["value"] is not None:
                how = [score["metric"], f"{tokens} tokens", c.teacher, f"round {c.round}"]
                how += ["before shuffling"] * (score["source"] == "shuffled")
                flat = c.value(score["metric"], tokens, "warning") is not None
                parts.append(f"{arm} ({', '.join(how)}) {_number(row, True)}{' FLAT' * flat}")
    if not parts:
        return ""
    return f"Contrast with other forks of the same response, seed {seed}: {'; '.join(parts)}."


def section(calibrated: Sequence[Calibrated]) -> str:
    """The tables of what is shown, and every warning."""
    if not calibrated:
        return ""
    parts = ["## Calibration", LEGEND]
    for c in shown(calibrated):
        forks = max(row["n"] for row in c.rows if row["quantity"] == "own")
        parts.append(
            f"Teacher {c.teacher}, round {c.round}, seed {c.seed}, {forks} forks; "
            f"arms {', '.join(c.arms)}:"
        )
        parts.append(_table(c))
    warnings = [
        f"- **Warning**, {', '.join(c.arms)}, teacher {c.teacher}, seed {c.seed}, round "
        f"{c.round}: {row['note']}"
        for c in calibrated
        for row in c.rows
        if warns(row)
    ]
    quiet = "No contrast is flat, and no metric is blind to a text."
    return "\n\n".join([*parts, "\n".join(warnings) or quiet])


def _table(c: Calibrated) -> str:
    places = [(r["metric"], r["chunk_tokens"]) for r in c.rows if r["quantity"] == "own"]
    body = [
        [metric, tokens]
        + [_number(c.value(metric, tokens, name), name in INTERVALS) for name in COLUMNS]
        for metric, tokens in places
    ]
    return tabulate(
        body, ["metric", "tokens", *COLUMNS.values()], tablefmt="github", disable_numparse=True
    )


def _number(row: Row | None, interval: bool) -> str:
    if row is None or row["value"] is None:
        return ""
    sign = "+" if row["quantity"].startswith("contrast") else ""
    if not interval or row["low"] is None:
        return f"{row['value']:{sign}.3f}"
    return f"{row['value']:{sign}.3f} [{row['low']:{sign}.3f}, {row['high']:{sign}.3f}]"
