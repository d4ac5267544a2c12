"""`omniopd audit`: is this teacher worth it, before any training?

Some prompts go through rollout, forks, teach, score, prior and calibrate in a folder of their own.
It is the same plan and the same stages as those of an experiment, one after the other; neither git
nor DVC is needed. Cells are named by what they are, so a second audit in the folder repeats only
what has changed, and the judgment store keeps every answer that was bought. Once the models are
there, and before anything is sampled or bought, it shows what student and teacher read.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import typer

from pipeline import teachers
from pipeline.code_digest import locks, variants
from pipeline.commands.audit.audit_params import Options, fitted, settings
from pipeline.commands.describe import as_yaml
from pipeline.commands.exports import source
from pipeline.config.params import METHOD
from pipeline.config.teachers import LocalTeacher
from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.plan import blocks, expand, experiment, resolved
from pipeline.processes import subprocesses
from pipeline.report.page import audit as page
from pipeline.runner import preflight
from pipeline.runner.dag import dag_files, plan_files
from pipeline.stage import cells, dataflow
from pipeline.teachers import protocol
from pipeline.teachers.purchase import prompt_view
from pipeline.teachers.purchase.prompt_view import View

KEPT = "finished stages and all answers are kept. Run the same command again to go on."


def audit(options: Options) -> Path:
    """Run the audit; returns its page. Raises UserError."""
    options = fitted(options)
    file, values = _settings(options)
    plan = expand.audited(file, METHOD)
    preflight.check(file, plan, lambda: _finished(plan, options.out), buying=True)
    _put(options.out, values)
    _run(plan, options.out, ("prepare", "pretrain"))
    with contextlib.chdir(options.out):  # readers know artifacts as data/...
        views = _views(options, file, plan)
    typer.echo(prompt_view.text(views), err=True)
    _run(plan, options.out)
    with contextlib.chdir(options.out):
        found = _audited(options, file, plan, views)
        cells.write_text(Path("index.html"), page.html(found))
    typer.echo(f"\n{page.verdict(found)}", err=True)
    return options.out / "index.html"


def imported(options: Options) -> Path:
    """Only the rollouts of another trainer, read by the student; returns their table.

    An audit of the same file in the same folder goes on from there. Raises UserError.
    """
    file, values = _settings(fitted(options))
    plan = expand.imported(file, METHOD)
    preflight.check(file, plan, lambda: _finished(plan, options.out), buying=False)
    _put(options.out, values)
    _run(plan, options.out, attempts=False)
    (key,) = plan["cells"]["rollout"]
    return options.out / f"data/rollout/{key}/rollouts.parquet"


def _finished(found: dict[str, Any], folder: Path) -> set[str]:
    """Cells that have been run there."""
    names = expand.upstream(found)
    return {name for name in names if (_folder(folder, name) / "run.json").is_file()}


def _folder(folder: Path, name: str) -> Path:
    group, _, key = name.partition("@")
    return folder / "data" / group.partition("-")[0] / key


def _settings(options: Options) -> tuple[blocks.Experiment, dict[str, Any]]:
    """The options as an experiment and its params.yaml. Writes nothing. Raises UserError."""
    values = yaml_files.plain(settings(options), "the options")
    return experiment.of(values, "the options"), values


def _put(folder: Path, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cells.write_text(folder / "params.yaml", as_yaml(values))


def _views(o: Options, file: blocks.Experiment, plan: dict[str, Any]) -> list[View]:
    """The prompts as both sides read them. Raises UserError where a template refuses one."""
    groups = plan["cells"].items()
    (cell,) = (c for name, g in groups if name.startswith("teach") for c in g.values())
    folder = Path(cell["student"]) / "checkpoint"
    own = Path(cell["teacher"]) if "teacher" in cell else None  # a local one's
    asked = protocol.Asked(file.teach.continuation, file.teach.temperature, "live", file.runtime)
    teacher = teachers.load(file.teachers["audited"], "audited", asked, folder, own)
    sides = prompt_view.sides(folder, teacher, "audited")
    table = Path(dataflow.INPUTS["prompts"].path.format(cell["prompts"]))
    return prompt_view.of_prompts(sides, table, o.prompts)


def _audited(
    o: Options, file: blocks.Experiment, plan: dict[str, Any], views: list[View]
) -> page.Audited:
    from pipeline.calibration import summary
    from pipeline.stage.run_records import folder, run_json

    arms = plan["cells"]["arms"]
    settings = {METHOD: resolved.method(file.arm(METHOD))}
    if o.imported:  # they were sampled elsewhere, by settings that nobody told us
        settings[METHOD]["rollout"] = {"imported": o.prompts.name}
    ((_, own),) = arms[METHOD]["seed-0"].items()
    rollouts = folder("rollout", own["rollout"]) / "rollouts.parquet"
    ends = tables.read(rollouts, schemas.ROLLOUTS, ["finish_reason"])
    reasons = ends["finish_reason"].to_pylist()
    teacher = file.teachers["audited"]
    price = None if isinstance(teacher, LocalTeacher) else teacher.price
    return page.Audited(
        student=o.student,
        teacher=o.teacher,
        continuation=file.teach.continuation,
        device=f"{o.device}, {o.threads} threads",
        metric=o.metric,
        chunk_tokens=o.chunk_tokens,
        prompts=o.count,
        responses=len(reasons),
        forks=tables.rows(folder("forks", own["forks"]) / "forks.parquet", schemas.FORKS),
        cut=reasons.count("length") / max(len(reasons), 1),
        calibration=summary.rows(summary.gather(arms, settings)),
        teach=run_json("teach", own["teach"]),
        price=None if price is None else {"input": price.input, "output": price.output},
        full=o.full,
        settings=settings[METHOD],
        browser=page.browser(arms, settings),
        views=views,
    )


def _run(
    plan: dict[str, Any],
    folder: Path,
    stages: tuple[str, ...] | None = None,
    attempts: bool = True,
) -> None:
    """Each cell that has not been run, in dependency order; of `stages` alone, if they are given.

    `attempts`: the command has the options of a teacher, which its message of an error names.

    Raises UserError where one fails.
    """
    names = list(expand.upstream(plan))
    cells.write_text(folder / source.PLAN, as_yaml(plan))
    for place, text in dag_files.texts(plan):
        cells.write_text(folder / place, text)
    locks.write(variants.of_plan(plan), folder)
    path = os.pathsep.join(sys.path)
    for number, name in enumerate(names, 1):
        group, _, key = name.partition("@")
        stage = dataflow.stage(group)
        if stages is not None and stage not in stages:
            continue
        if (_folder(folder, name) / "run.json").is_file():
            continue
        typer.echo(f"{number} of {len(names)}: {stage}", err=True)
        environment = {**plan_files.environment(), "PYTHONPATH": path}
        command = ["omniopd", "stage", stage, "--cell", key]
        if subprocesses.status(command, folder, environment, KEPT):
            named = (
                " (teach.max_attempts is --max-attempts here, teach.accept_terms --accept-terms)"
            )
            raise UserError(
                f"stage {stage} failed; its own message is above{named if attempts else ''}. Fix "
                "this, then rerun the same command: finished stages are not repeated, answers are "
                "kept."
            )
