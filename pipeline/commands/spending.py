"""Money on the command line: estimate it, and check a teacher before it is spent."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pipeline import teachers
from pipeline.commands import profiles
from pipeline.commands.estimate import compute_table
from pipeline.commands.estimate import estimate as costs
from pipeline.commands.estimate.compute import Experimental
from pipeline.config import teacher_lines
from pipeline.config.teachers import LocalTeacher
from pipeline.core.errors import UserError
from pipeline.judgments.ledger import Entry
from pipeline.judgments.spool import FOLDER
from pipeline.judgments.store import Store, url
from pipeline.plan import blocks, expand, experiment
from pipeline.runner.dag import plan_files
from pipeline.stage import cells
from pipeline.teachers import protocol
from pipeline.teachers.hosted import Hosted
from pipeline.teachers.purchase import preflight, prompt_view
from pipeline.teachers.purchase.budget import Budget

HEADERS = (
    "arm,seed,round,teacher,counted,answers,held,requests,input tokens,output tokens,usd,hours"
)


def estimate(
    as_json: bool,
    tflops: float | None = None,
    gb_per_s: float | None = None,
    profile: str | None = None,
) -> str:
    """The teachers' bill and what else params.yaml, or a profile, takes: tables, or JSON with
    `rows`, `total`, `spent` and `compute`."""
    for name, stated in (("--tflops", tflops), ("--gb-per-s", gb_per_s)):
        if stated is not None and not 0 < stated < math.inf:
            raise UserError(f"{name}: found {stated}, wanted a number above 0. Correct it.")
    file = experiment.load() if profile is None else profiles.loaded(profile)
    expanded = expand.expand(file)
    with Store(url(), cells.project()) as store:
        rows = costs.estimate(file, expanded, store)
        spent = store.spent()
    total = costs.total(rows)
    card = compute_table.card(file.runtime, tflops, gb_per_s)
    needs = unknown = None
    try:
        needs = compute_table.found(Experimental(file, expanded), card)
    except UserError as error:  # the bill stands without the sizes of models
        unknown = str(error)
    if as_json:
        values = {"rows": rows, "total": asdict(total), "spent": asdict(spent)}
        values["compute"] = {"unknown": unknown} if needs is None else needs._asdict()
        return json.dumps(values, indent=1, allow_nan=False)
    compute = f"Memory, cache and hours: {unknown}" if needs is None else compute_table.text(needs)
    return f"{_bill(rows, total, spent)}{_unpriced(file, rows)}\n\n{compute}"


def _unpriced(file: blocks.Experiment, rows: list[dict[str, Any]]) -> str:
    """A sentence on the hosted teachers whose dollars nobody knows; empty where there is none."""
    asked = {row["teacher"] for row in rows if row["requests"]}
    hosted = {name: file.teachers[name] for name in sorted(asked)}
    names = [
        name
        for name, config in hosted.items()
        if not isinstance(config, LocalTeacher) and config.price is None
    ]
    if not names:
        return ""
    return (
        f" Dollars leave out {' and '.join(names)}, of which no price is known: set "
        "teachers.NAME.price {input, output}, in dollars per million tokens."
    )


def _bill(rows: list[dict[str, Any]], total: costs.Cost, spent: Entry) -> str:
    lines = [["all", "", "", "", "", *asdict(total).values()]]
    lines += [list(row.values()) for row in rows]
    table = tabulate(
        lines, headers=HEADERS.split(","), intfmt=",", floatfmt=(*[""] * 10, ".2f", ".2f")
    )
    return (
        f"{table}\n\nOutput tokens are the limit; where a teacher ends sooner it is fewer. Draws "
        f"that fail are asked again. Spent by this project so far: {spent.requests:,} requests, "
        f"${spent.usd:.2f}."
    )


def again(plan: dict[str, Any], names: set[str]) -> str:
    """Say what cells of a plan would buy if they reran; empty where they ask no hosted teacher.

    Of the answers to what they read now: what the store holds of these costs nothing.
    """
    file = experiment.load()
    keys = {name.partition("@")[2] for name in names}
    arms = {
        arm: {
            seed: {r: _asking(file, plan, own, keys) for r, own in rounds.items()}
            for seed, rounds in seeds.items()
        }
        for arm, seeds in expand.named(plan).items()
    }
    if not any(
        own for seeds in arms.values() for rounds in seeds.values() for own in rounds.values()
    ):
        return ""
    with Store(url(), cells.project()) as store:
        links = {"arms": arms, "branches": {}, "held_out": {}}
        rows = costs.estimate(file, {"cells": {**plan["cells"], **links}}, store)
    cost, unpriced = costs.total(rows), _unpriced(file, rows)
    guessed = any(row["counted"].startswith("at most") for row in rows)
    as_far = " (from params: what these cells read is not here, `dvc checkout` brings it back)"
    return (
        f"teach: {cost.answers:,} answers of hosted teachers, {cost.held:,} of them in the store "
        f"already; the rest costs at most ${cost.usd:.2f}{as_far * guessed}"
        f"{'.' * bool(unpriced)}{unpriced}"
    )


def _asking(
    file: blocks.Experiment, plan: dict[str, Any], own: dict[str, str], keys: set[str]
) -> dict[str, str]:
    """The cells among `keys` that ask a hosted teacher, of an arm's cells of a round."""
    teaching = {
        stage: key for stage, key in own.items() if stage.startswith("teach") and key in keys
    }

    def hosted(key: str) -> bool:
        _, cell = costs.asked(plan, key)[0]
        return not isinstance(file.teachers[cell["params"]["teacher"]], LocalTeacher)

    return {stage: key for stage, key in teaching.items() if hosted(key)}


def prompts(name: str | None) -> str:
    """The check's own probes as student and teacher read them, with warnings. Raises UserError."""
    _, teacher = _teacher(name)
    sides = prompt_view.sides(_student(), teacher, teacher.name)
    probes = (preflight.COUNT[0], preflight.STORY[0])
    return prompt_view.text(prompt_view.of_probes(sides, probes))


def check(name: str | None, force: bool) -> preflight.Verdict:
    """Check a teacher with the base block's mode and temperature, and remember it if it passed."""
    file, teacher = _teacher(name)
    accepted = file.teach.accept_terms
    with Store(url(), cells.project(), FOLDER) as store:
        budget = Budget(store, file.teach.max_requests, file.teach.max_usd)
        names = (accepted,) if isinstance(accepted, str) else accepted
        preflight.allowed(teacher, budget, names)
        verdict = preflight.check(teacher, budget)
        if verdict.passed or force:
            store.passed(preflight.identity(teacher))
    return verdict


def _teacher(name: str | None) -> tuple[blocks.Experiment, Hosted]:
    """params.yaml and the teacher to be checked. Raises UserError."""
    file = experiment.load()
    name = name or file.teach.teachers[0]
    if teacher_lines.is_line(name) and teacher_lines.is_hosted(name):
        entry, values = (
            teacher_lines.entry(name, "teacher check"),
            experiment.read_yaml(blocks.PARAMS),
        )
        name = teacher_lines.name(name)
        entries = {name: entry, **(values.get("teachers") or {})}
        file = experiment.of({**values, "teachers": entries}, str(blocks.PARAMS))
    config = file.teachers.get(name)
    if config is None:
        raise UserError(f"teachers: {name!r} is not one of {sorted(file.teachers)}. Name one.")
    if isinstance(config, LocalTeacher):
        raise UserError(
            f"teachers.{name} is a local checkpoint: it continues its own input, costs nothing, "
            "and needs no check. `omniopd audit` shows what it reads."
        )
    asked = protocol.Asked(file.teach.continuation, file.teach.temperature, "live", file.runtime)
    teacher = teachers.load(config, name, asked, _student(), None)
    assert isinstance(teacher, Hosted)
    return file, teacher


def _student() -> Path:
    """The base student's checkpoint, which may not exist yet."""
    base = plan_files.expanded()["cells"]["arms"]["base"]
    return Path(next(iter(base.values()))["round-0"]["policy"]) / "checkpoint"
