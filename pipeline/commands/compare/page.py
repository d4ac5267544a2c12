"""The page of a comparison: numbers, what differs, costs, and answers side by side."""

from typing import Any

from markupsafe import Markup

from pipeline.analysis import intervals
from pipeline.commands.compare import shown
from pipeline.report.page.blocks import Answers, Block, Cell, Forest, Scale, Section, Table, Text
from pipeline.report.page.page import assemble
from pipeline.stage.run_records import Row

EXPLORES = (
    "Minus the first is an arm's accuracy minus that of the same arm in {first}, paired by seed "
    "and problem. Intervals are 95 % each and not adjusted for how many there are: such a "
    "comparison explores. Tokens, dollars and seconds are as if the arm were run alone."
)
ANSWERS = (
    "What an arm wrote in {first}, beside what the same arm wrote in another experiment, after the "
    "last round of each. Equal samples drew equal random numbers. Now right: {first} had it wrong. "
    "Now wrong: {first} had it right."
)


def html(found: dict[str, Any], answers: dict[str, Any] | None) -> str:
    """The whole page, of what `compared.document` has and the data of the answers view."""
    names = list(found["basis"])
    parts = [
        _results(found, names[0]),
        _differing(found["params"], names),
        _costs(found),
        _answers(answers, names[0]),
    ]
    title = " beside ".join(names) if len(names) == 2 else f"{len(names)} experiments"
    basis = Markup("<br>").join(dict.fromkeys(shown.basis(found["basis"]).splitlines()))
    return assemble(title, basis, parts, names, None, answers)


def _results(found: dict[str, Any], first: str) -> Section:
    rows = found["rows"]
    differences = [row["minus_first"] for row in rows if row["minus_first"]]
    scale = Scale([end for one in differences for end in (one["low"], one["high"])])
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    body = [_line(row, scale) for row in sorted(rows, key=lambda row: arms.index(row["arm"]))]
    head = ["experiment", "arm", "sampled accuracy", "diff to base", "minus the first", ""]
    head += ["teacher tokens", "dollars", "seconds"]
    ends = scale.ends() if differences else None
    missing = [Text(line) for line in shown.missing(found["missing"])]
    blocks: list[Block] = [Table(head, body, scale=ends), *missing]
    return Section("results", "Results", blocks, EXPLORES.format(first=first))


def _line(row: Row, scale: Scale) -> list[Cell | Forest]:
    diff, base = row["minus_first"], row["arm"] == "base"
    first: list[Cell | Forest] = [Cell(row["why_not"] or ""), Cell("")]
    if diff:
        ends = (diff["low"], diff["high"])
        first = [_value(diff["diff"], *ends, "+"), scale.forest(diff["diff"], *ends)]
    return [
        Cell(row["experiment"], "arm"),
        Cell(row["arm"]),
        _value(row["accuracy"], row["low"], row["high"]),
        Cell("") if base else _value(row["diff"], row["diff_low"], row["diff_high"], "+"),
        *first,
        Cell(shown.number(row["teacher_tokens_alone"])),
        Cell(shown.dollars(row["usd_alone"])),
        Cell(shown.number(row["seconds"])),
    ]


def _value(value: float, low: float, high: float, sign: str = "") -> Cell:
    number = intervals.number(value, low, high, sign)
    return Cell(number, small=intervals.bracket(low, high, sign))


def _differing(params: dict[str, dict[str, Any]], names: list[str]) -> Section:
    if not params:
        return Section("params", "What differs", [Text("Their params are the same.")])
    body: list[list[Cell | Forest]] = [
        [Cell(key, "text"), *(Cell(shown.value(own[name])) for name in names)]
        for key, own in params.items()
    ]
    return Section("params", "What differs in params.yaml", [Table(["key", *names], body)])


def _costs(found: dict[str, Any]) -> Section:
    cells = {one["experiment"]: one for one in found["cells"]}
    body: list[list[Cell | Forest]] = [
        [
            Cell(name, "arm" if name in cells else "text"),
            Cell(f"{cells[name]['cells'] if name in cells else found['together']:,}"),
            Cell(f"{cells[name]['shared']:,}" if name in cells else ""),
            Cell(shown.number(own["teacher_tokens_bought"])),
            Cell(shown.dollars(own["usd_spent"])),
            Cell(shown.number(own["seconds"])),
        ]
        for name, own in {**found["costs"], "together": found["costs_together"]}.items()
    ]
    head = ["experiment", "cells", "shared", "teacher tokens bought", "dollars", "seconds"]
    lead = "What their cells took, each once, pretraining and calibration apart."
    return Section("costs", "Cells and costs", [Table(head, body)], lead)


def _answers(answers: dict[str, Any] | None, first: str) -> Section | None:
    if answers is None:
        return None
    return Section("answers", "Answers", [Answers()], ANSWERS.format(first=first))
