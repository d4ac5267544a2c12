"""index.html: rows and the fork browser's data put into the template with styles and scripts.

The file asks for nothing: Vega stands in it, and a policy in its head forbids every request.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import no_effect, unevaluated
from pipeline.report.charts import COLOURS, MARKERS, look
from pipeline.report.page import calibration, explained, forks, how, outcome, sections
from pipeline.report.page.blocks import (
    Answers,
    Block,
    Browser,
    Cell,
    Charts,
    Forest,
    Row,
    Section,
    Table,
    Text,
    Words,
)

SCRIPTS = (
    *("theme.js", "wide.js", "charts.js", "answers.js"),
    *("forks_data.js", "forks_view.js", "forks.js"),
)


@dataclass(frozen=True)
class Content:
    """Everything the page shows, as plain rows."""

    arms: list[str]
    split: str
    k: int
    per_seed: bool
    results: list[Row]  # of results.json; sampled rows of last rounds with pass_at_k, unextracted
    contrasts: list[Row] = field(default_factory=list)  # of contrasts.json
    curves: list[Row] = field(default_factory=list)  # of curves.json
    pooled: list[Row] = field(default_factory=list)  # of pooled.json, with several seeds
    verdicts: list[Row] = field(default_factory=list)  # of verdicts.json
    costs: list[Row] = field(default_factory=list)  # of costs.json
    calibration: list[Row] = field(default_factory=list)  # of calibration.json
    branches: list[Row] = field(default_factory=list)  # of branches.json
    no_effect: list[Row] = field(default_factory=list)  # of no_effect.json
    collapse: list[Row] = field(default_factory=list)  # of collapse.json
    agreement: list[Row] = field(default_factory=list)  # of agreement.json, without evaluations
    held_out: list[Row] = field(default_factory=list)  # of held_out.json
    judged: list[Row] = field(default_factory=list)  # of judged.json
    written: list[Row] = field(default_factory=list)  # of written.json, likewise
    settings: dict[str, Row] = field(default_factory=dict)  # by arm
    runs: dict[str, str] = field(default_factory=dict)  # a sentence by arm
    notes: list[str] = field(default_factory=list)
    student: dict[str, str] = field(default_factory=dict)  # name, and what it was made from
    teachers: dict[str, str] = field(default_factory=dict)  # in words, by name
    made: dict[str, str] = field(default_factory=dict)  # what else is known of how it was made
    answers: dict[str, Any] | None = None  # of answers.data.view
    browser: dict[str, Any] | None = None  # of forks.browser


def render(content: Content) -> str:
    """The report of an experiment."""
    found = [
        _results(content) if content.results else None,
        _held_out(content),
        _judged(content),
        None if content.results else _agreement(content),
        sections.curves(content.curves, content.arms, content.split, content.pooled),
        sections.costs(content.costs, content.results, content.arms, content.pooled),
        calibration.section(content.calibration),
        sections.branches(content.branches),
        sections.collapse(content.collapse),
        _answers(content),
        _browser(content),
        how.section(content.settings, content.runs),
    ]
    last = max((row["round"] for row in content.costs or content.results), default=0)
    return assemble(
        how.title(content.student, content.settings),
        _basis(content),
        found,
        content.arms,
        content.browser,
        content.answers,
        _said(content),
        how.facts(content.student, content.teachers, content.settings, last, content.made),
        content.notes,
    )


def assemble(
    title: str,
    basis: Markup,
    parts: Sequence[Section | None],
    arms: list[str],
    browser: dict[str, Any] | None,
    answers: dict[str, Any] | None = None,
    said: dict[str, str] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The whole file. `arms` have their colours in this order; `said` has a sentence on each."""
    shown = [part for part in parts if part is not None]
    specs = {
        chart.name: chart.spec
        for section in shown
        for block in section.blocks
        if isinstance(block, Charts)
        for chart in block.charts
    }
    looks = {arm: _look(arms, arm) for arm in arms}
    return (
        _environment()
        .get_template("template.html.j2")
        .render(
            title=title,
            basis=basis,
            facts=facts,
            notes=notes,
            said=said or {},
            column=explained.column,
            sections=shown,
            style=Markup(_source("page.css")),
            colours=list(enumerate(COLOURS)),
            scripts=[Markup(_source(name)) for name in SCRIPTS],
            vega=Markup(vega() if specs else ""),
            specs=Markup(forks.dumps(specs)),
            answers=Markup(forks.dumps(answers)),
            browser=Markup(forks.dumps(browser)),
            looks=looks,
            looks_json=Markup(forks.dumps(looks)),
        )
    )


def _basis(content: Content) -> Markup:
    return Markup(
        _environment()
        .get_template("basis.html.j2")
        .render(
            content=content,
            seeds=sorted({row["seed"] for row in content.results}),
            problems=max((row["problems"] for row in content.results), default=0),
        )
    )


def _results(content: Content) -> Section:
    several = len({row["seed"] for row in content.results}) > 1
    seen = outcome.verdicts(content.verdicts) if several else []
    seen = seen or outcome.contrasts(content.contrasts)
    failed = [Text(sentence, "bad") for sentence in no_effect.failures(content.no_effect)]
    rest = [Text(remark) for remark in no_effect.remarks(content.no_effect, content.settings)]
    tables = outcome.results(content.results, content.pooled)
    heads = [name for table in tables if isinstance(table, Table) for name in table.head]
    words = [
        Words("What the arms are", list(_said(content).items()), arms=True),
        Words("What the columns are", explained.columns(heads)),
    ]
    blocks = [*failed, *seen, *tables, *(one for one in words if one.words), *rest]
    return Section("results", "Verdicts and results", blocks)


def _said(content: Content) -> dict[str, str]:
    return explained.arms(content.arms, content.settings, content.teachers)


def _agreement(content: Content) -> Section:
    tables = [
        Table(head, [[Cell(row[0], "arm"), *map(Cell, row[1:])] for row in body])
        for head, body in unevaluated.tables(content.agreement, content.written)
    ]
    failed = [Text(sentence, "bad") for sentence in no_effect.failures(content.no_effect)]
    rest = [Text(remark) for remark in no_effect.remarks(content.no_effect, content.settings)]
    blocks: list[Block] = [*failed, *tables, *rest]
    lead = unevaluated.lead(bool(content.held_out or content.judged))
    return Section("results", "Agreement with the teacher, round by round", blocks, lead)


def _held_out(content: Content) -> Section | None:
    if not content.held_out:
        return None
    blocks = _looked(unevaluated.seen(content.held_out), *unevaluated.looks(content.held_out))
    lead = unevaluated.held_out_lead(bool(content.results))
    return Section("held-out", "Agreement on held-out prompts", blocks, lead)


def _judged(content: Content) -> Section | None:
    if not content.judged:
        return None
    blocks = _looked(unevaluated.preferred(content.judged), *unevaluated.judged(content.judged))
    lead = unevaluated.judged_lead(bool(content.results))
    return Section("judged", "Judged beside the untrained student", blocks, lead)


def _looked(said: Sequence[str], head: list[str], body: Sequence[Sequence[str]]) -> list[Block]:
    kinds = ["arm" if name == "arm" else "number" for name in head]
    lines: list[list[Cell | Forest]] = [[*map(Cell, row, kinds)] for row in body]
    return [*map(Text, said), Table(head, lines)]


def _answers(content: Content) -> Section | None:
    if content.answers is None:
        return None
    lead = (
        f"What was written for the {content.split} problems: the untrained student's answer beside "
        "that of an arm after its last round. Equal samples drew equal random numbers. Now right: "
        "base had it wrong. Now wrong: base had it right."
    )
    return Section("answers", "Answers", [Answers()], lead)


def _browser(content: Content) -> Section | None:
    if content.browser is None:
        return None
    lead = (
        "What the student wrote, where it was audited, and how the teacher would have gone on from "
        "there. The stronger a token's tint, the less sure the student was of it."
    )
    return Section("forks", "Fork browser", [Browser()], lead)


def _look(arms: list[str], arm: str) -> dict[str, Any]:
    """Numbers of an arm's colour and marker, as in every picture."""
    found = look(arms, arm)
    return {
        "colour": COLOURS.index(found["color"]),
        "marker": MARKERS.index(found["marker"]),
    }


@functools.cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script that leaves only its three names behind."""
    import vl_convert

    script = str(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # the stub lacks the default
    # no string in a script may end its element
    script = re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.IGNORECASE)
    return f"(() => {{{script}\n}})();"


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    return (files("pipeline.report.page") / name).read_text(encoding="utf-8")
