"""The command line of `omniopd sweep`."""

from typing import Annotated

import typer


def sweep(
    keys: Annotated[list[str], typer.Argument(help="KEY=VALUE,VALUE; a list as [0,1]")],
    seeds: Annotated[int | None, typer.Option(min=1, help="number of seeds")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="name of the sweep")] = None,
    arms: Annotated[
        str | None, typer.Option(help="arms, with commas; default: every arm that a value changes")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="cells to run at a time")] = 1,
    dry_run: Annotated[bool, typer.Option(help="only print what would run")] = False,
) -> None:
    """Plan arms at every combination of values as one DAG, and run it as `omniopd run` does.

    Written as block `sweep` of params.yaml, and nothing else is: the same command, `omniopd run`
    and plain `dvc repro` go on where it was stopped.
    """
    from pipeline.commands.sweep import planned

    found = planned.plan(keys, seeds, name, arms.split(",") if arms else None)
    typer.echo(found.said)
    if dry_run:
        typer.echo("nothing was written, as --dry-run says")
        return
    planned.run(found, parallel)
