"""`omniopd export` and `omniopd import`: to and from other people's trainers."""

from pathlib import Path
from typing import Annotated, Literal

import typer


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
