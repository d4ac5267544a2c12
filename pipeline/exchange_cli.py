"""`omniopd export` and `omniopd import`: to and from other people's trainers."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.errors import UserError


def export(
    name: Annotated[str, typer.Argument(help="an arm of the plan, or the folder of an audit")],
    to: Annotated[Literal["hf", "trl", "verl", "jsonl"], typer.Option(help="for what")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    seed: Annotated[int | None, typer.Option(help="of the arm; by default its first")] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="of the arm; by default its last")
    ] = None,
) -> None:
    """A checkpoint with a model card, or the targets of a round for another trainer."""
    from pipeline import exports
    from pipeline.exports import source

    exports.export(source.find(name, seed, round_), to, out)
    typer.echo(out)


def import_(
    rollouts: Annotated[
        Path, typer.Argument(help="JSON, Parquet, Arrow or a folder: docs/in-and-out.md")
    ],
    student: Annotated[str, typer.Option(help="a folder, a hub name, or PACKAGE/FILE.gguf")],
    out: Annotated[Path, typer.Option(help="scratch folder, as that of `omniopd audit`")] = Path(
        "audit"
    ),
    count: Annotated[int | None, typer.Option(min=2, help="prompts; by default all")] = None,
    device: Annotated[str, typer.Option(help="of the student")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="by default one a core")] = None,
) -> None:
    """Rollouts of another trainer as our table, checked and read exactly by the student.

    `omniopd audit --rollouts` does the same first, and goes on from what is in the folder.
    """
    from pipeline import audit
    from pipeline.audit_params import Options

    options = Options(
        student, student, rollouts, out, count=count or sys.maxsize, device=device,
        threads=threads or os.cpu_count() or 1, imported=True,
    )  # fmt: skip
    typer.echo(audit.imported(options))


def one_of(prompts: Path | None, rollouts: Path | None) -> Path:
    """The file that an audit reads. Raises UserError unless there is exactly one."""
    named = [path for path in (prompts, rollouts) if path is not None]
    if len(named) != 1:
        found = "both" if named else "neither"
        raise UserError(f"--prompts, --rollouts: found {found}, wanted one. Name one file.")
    return named[0]
