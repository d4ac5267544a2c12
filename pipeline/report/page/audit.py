"""The page of an audit: a verdict in words, calibration, failures, what a full run would cost."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from pipeline.analysis import intervals
from pipeline.calibration import FLAT
from pipeline.report.page import calibration, forks, how
from pipeline.report.page.blocks import Browser, Cell, Quotes, Row, Section, Table, Text
from pipeline.report.page.page import assemble
from pipeline.teachers.purchase import prompt_view
from pipeline.teachers.purchase.prompt_view import View

QUOTED = 20_000  # characters of a prompt on the page
MANY = 100_000  # prompts of an audit that nobody would run
LEAST = 0.6  # AUROC against other forks from which a metric is said to know the fork well


@dataclass(frozen=True)
class Audited:
    """The findings of an audit."""

    student: str
    teacher: str
    continuation: str
    device: str
    metric: str
    chunk_tokens: int
    prompts: int
    responses: int
    forks: int
    cut: float  # share of the responses that the length limit cut
    calibration: list[Row]  # of calibration.json
    teach: dict[str, Any]  # run.json of stage teach
    price: dict[str, float] | None
    full: int  # responses of the run whose cost is told
    settings: dict[str, Any]
    browser: dict[str, Any] | None
    views: list[View] = field(default_factory=list)  # prompts as both sides read them


def html(audited: Audited) -> str:
    """The whole page."""
    parts = [
        _verdict(audited),
        _prompts(audited.views),
        calibration.section(audited.calibration),
        _failures(audited),
        _cost(audited),
        _browser(audited),
        how.section({"omniopd": audited.settings}, {}),
    ]
    return assemble(
        "Is this teacher worth it?", _basis(audited), parts, ["omniopd"], audited.browser
    )


def _basis(found: Audited) -> Markup:
    return Markup("Student <b>{}</b>, teacher <b>{}</b> in mode {}. {:,} prompts, {:,} responses, "
                  "{:,} forks of {} tokens, on {}. Nothing was trained.").format(
        found.student, found.teacher, escape(found.continuation), found.prompts, found.responses,
        found.forks, found.chunk_tokens, found.device,
    )  # fmt: skip


def _value(found: Audited, quantity: str, metric: str, tokens: int) -> Row | None:
    wanted = (metric, tokens, quantity)
    names = ("metric", "chunk_tokens", "quantity")
    rows = (r for r in found.calibration if tuple(r[name] for name in names) == wanted)
    return next((r for r in rows if r["value"] is not None), None)


def _verdict(audited: Audited) -> Section:
    """The contrast against other forks of the same response, of the metric asked for."""
    contrast = _value(audited, "contrast/other-fork", audited.metric, audited.chunk_tokens)
    auroc = _value(audited, "auroc/other-fork", audited.metric, audited.chunk_tokens)
    title = "Verdict"
    if contrast is None or contrast["low"] is None:
        text = (
            "Fewer than two problems have a response with two forks, so nothing can be said. Raise "
            "--count, --max-new-tokens or --forks, or lower --chunk-tokens."
        )
        return Section("verdict", title, [Text(text, "flat")])
    shown = intervals.interval(contrast["value"], contrast["low"], contrast["high"], "+")
    what = (
        f"Metric {audited.metric}, {audited.chunk_tokens} tokens: the student's chunk is "
        f"{shown} more similar "
        "to the teacher's continuations of its own fork than to those of another fork of the same "
        f"response (95 % over problems, {contrast['n']:,} forks)."
    )
    tone, said = _said(audited, contrast, auroc)
    blocks: list[Any] = [Text(said, tone), Text(what)]
    blind = _value(audited, "unseen", audited.metric, audited.chunk_tokens)
    if blind is not None and blind["note"]:
        blocks.append(Text(f"Blind to a part: {blind['note']}", "bad"))
    best = _best(audited)
    if best is not None:
        blocks.append(Text(best))
    return Section("verdict", title, blocks)


def verdict(audited: Audited) -> str:
    """The verdict in words, and what the full run would cost, for a terminal."""
    first = _verdict(audited).blocks[0]
    assert isinstance(first, Text)
    return f"{first.text} {_price(audited)}"


def _said(audited: Audited, contrast: Row, auroc: Row | None) -> tuple[str, str]:
    """Tone and words: flat only where the whole interval says so, else undecided."""
    if contrast["high"] < FLAT:
        said = "the scores hardly know the fork, which predicts no learning."
        return "bad", f"Not worth it. Flat: {said}"
    if contrast["low"] <= 0 or contrast["value"] < FLAT:
        return "flat", f"Undecided: {_needed(audited.prompts, contrast)}"
    if auroc is not None and auroc["value"] < LEAST:
        return "flat", (
            "Worth a try. There is a signal, and it is weak: a continuation of the own fork is the "
            f"more similar one {auroc['value']:.0%} of the time, against one of another fork."
        )
    return "good", (
        "Worth it. There is a signal at the forks; whether the student can learn from it is for a "
        "run with its controls to say."
    )


def _needed(prompts: int, contrast: Row) -> str:
    """How many prompts would decide, if the contrast stays: a half width shrinks as 1/sqrt(n)."""
    value, low, high = (contrast[name] for name in ("value", "low", "high"))
    shown = f"the interval holds both a signal and none ({FLAT} and less is flat)."
    half, wanted = (value - low, value) if value >= FLAT else (high - value, FLAT - value)
    needed = math.ceil(round(prompts * (half / wanted) ** 2, 6)) if wanted > 0 else MANY
    if needed >= MANY:
        return f"{shown} It is so near to flat that no number of prompts decides it soon."
    return f"{shown} About {needed:,} prompts would decide it, if the contrast stays: --count."


def _price(audited: Audited) -> str:
    """Dollars and hours of the full run, as far as they are known."""
    usd, hours = _totals(audited)
    known = [f"{usd:,.2f} dollars"] if usd is not None else []
    known += [f"{hours:,.1f} hours of the teacher"] if hours is not None else []
    if not known:
        return "What the full run would cost is not known without --price."
    said = f"The full run of {audited.full:,} responses: {' and '.join(known)}."
    enough = _enough(audited)
    return f"{said} {enough}" if enough else said


def _enough(audited: Audited) -> str:
    """How many answers a fork are enough, and what the full run would cost with them."""
    row = _value(audited, "recommended", audited.metric, audited.chunk_tokens)
    if row is None or row["value"] is None:
        return ""
    now, enough = int(audited.settings["teach"]["samples"]), int(row["value"])
    said = f"{enough} of {now} answers a fork would be enough for a reliability of .8"
    if enough > now:
        said = f"{enough} answers a fork, not {now}, would give a reliability of .8"
    if audited.price is None:
        return f"{said}."
    read, written = (audited.teach[n] for n in ("prompt_tokens_alone", "tokens_alone"))
    each = read * audited.price["input"] + written * enough / now * audited.price["output"]
    usd = each / 1e6 * audited.full / max(audited.responses, 1)
    return f"{said}: {usd:,.2f} dollars, if a fork is one request."


def _totals(audited: Audited) -> tuple[float | None, float | None]:
    """Dollars and hours of the full run; None where they are not known."""
    usd, hours = _spent(audited)
    times = audited.full / max(audited.responses, 1)
    return (None if usd is None else usd * times), (None if hours is None else hours * times)


def _spent(audited: Audited) -> tuple[float | None, float | None]:
    """Dollars, if there is a price, and hours of the audit itself."""
    run, usd = audited.teach, None
    if audited.price is not None:
        read, written = run["prompt_tokens_alone"], run["tokens_alone"]
        usd = (read * audited.price["input"] + written * audited.price["output"]) / 1e6
    # answers that the store held took no time; what is left of the draws would mislead
    bought = run["tokens_bought"] == run["tokens_alone"]
    return usd, run["seconds"] / 3600 if bought else None


def _best(audited: Audited) -> str | None:
    """Where the chance of telling forks apart is highest, of all that was tried."""
    rows = [r for r in audited.calibration if r["quantity"] == "auroc/other-fork" and r["value"]]
    if not rows:
        return None
    top = max(rows, key=lambda r: r["value"])
    return (
        f"Of what was tried on the same answers, {top['metric']} at {top['chunk_tokens']} tokens "
        f"tells forks apart best: AUROC {top['value']:.2f}. It was picked as the best of "
        f"{len(rows)}, so expect less of it; audit it on other prompts."
    )


def _prompts(views: list[View]) -> Section | None:
    """The section on what both sides read beyond the messages, a prompt for each roles."""
    if not views:
        return None
    said = prompt_view.warnings(views)
    blocks: list[Any] = [Text(warning, "bad") for warning in said]
    if not said:
        blocks.append(Text(prompt_view.quiet(views)))
    blocks += [Text(line) for line in prompt_view.ends(views)]
    for view in views[: prompt_view.SHOWN]:
        quotes = [(label, prompt_view.cut(text, QUOTED)) for label, text in view.sides]
        blocks.append(Quotes(view.what, quotes))
        blocks += [Text(f"Both templates add {line!r}.") for line in view.shared]
    lead = (
        "A prompt as student and teacher get it, rendered by the template of each, for each "
        f"sequence of roles. Warnings stop nothing; {prompt_view.REMEDY}."
    )
    return Section("prompts", "What the teacher reads", blocks, lead)


def _failures(audited: Audited) -> Section:
    run = audited.teach
    reasons = Counter(
        {k.partition("/")[2]: n for k, n in run.items() if k.startswith("failed/") and n}
    )
    total = int(run["answers"]) + int(run["failed"])
    said = (
        f"{run['failed']:,} of {total:,} draws failed ({run['failed'] / max(total, 1):.1%}); a "
        "failed draw is asked again and never scored."
    )
    blocks: list[Any] = [Text(said, "bad" if run["failed"] > 0.05 * total else "")]
    if reasons:
        rows: list[Any] = [[Cell(r, "text"), Cell(f"{n:,}")] for r, n in reasons.most_common()]
        blocks.append(Table(["reason", "draws"], rows))
    if audited.cut > 0:
        blocks.append(
            Text(f"{audited.cut:.0%} of the student's responses were cut by their limit.")
        )
    return Section("failures", "Continuation failures", blocks)


def _cost(audited: Audited) -> Section:
    """The audit's own counts, and those of `full` responses at the same forks and samples."""
    run, times = audited.teach, audited.full / max(audited.responses, 1)
    usd, hours = _spent(audited)
    lines = [
        ("responses", float(audited.responses), ",.0f"),
        ("forks", float(audited.forks), ",.0f"),
        ("answers", float(run["answers"]), ",.0f"),
        ("teacher tokens in", float(run["prompt_tokens_alone"]), ",.0f"),
        ("teacher tokens out", float(run["tokens_alone"]), ",.0f"),
        ("dollars", usd, ",.2f"),
        ("hours of the teacher", hours, ",.2f"),
    ]
    rows: list[Any] = [
        [
            Cell(name, "text"),
            Cell("" if value is None else format(value, style)),
            Cell("" if value is None else format(value * times, style)),
        ]
        for name, value, style in lines
    ]
    lead = (
        f"This audit, and a run of {audited.full:,} responses with as many forks and samples each, "
        "by proportion: every round's prefixes are new after an update, so a round's answers are "
        "bought once. A prompt counts once for each request."
    )
    if enough := _enough(audited):
        lead += f" {enough}"
    if usd is None:
        lead += " The teacher has no price: give --price, dollars for a million tokens in and out."
    head = ["quantity", "this audit", f"{audited.full:,} responses"]
    return Section("cost", "What the full run would cost", [Table(head, rows)], lead)


def _browser(found: Audited) -> Section | None:
    if found.browser is None:
        return None
    lead = "What the student wrote, where it was audited, and how the teacher would have gone on."
    return Section("forks", "Fork browser", [Browser()], lead)


def browser(arms: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The fork browser's data, of arm omniopd."""
    found = forks.browser(arms, settings)
    return found and found | {"absent": []}
