"""`omniopd init`, `profile` and `stage`: a project's beginning, and what DVC calls of it."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError


def init(
    folder: Annotated[Path, typer.Argument(help="a new folder, a repository, or a folder in one")],
    profile: Annotated[str, typer.Option(help="the params.yaml to begin with")] = "default",
) -> None:
    """Create a project: params.yaml, dvc.yaml and the files that git and DVC need."""
    from pipeline.commands import new_project

    typer.echo(new_project.make(folder, profile))


def profile(
    name: Annotated[
        str, typer.Argument(help="default, study, smollm2, ...; an unknown name lists all")
    ],
) -> None:
    """Write a profile to params.yaml and keep the old file as params.yaml.old, .old.2 ..."""
    from pipeline.commands import profiles

    typer.echo(profiles.put(name))


def stage(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="the file name that DVC prints")],
) -> None:
    """Run one stage for one cell, as DVC does: `omniopd stage score --cell c1af11447`."""
    from pipeline.processes import program

    if name not in (known := program.stages()):
        raise UserError(f"no stage {name!r}; wanted one of {sorted(known)}. Correct the name.")
    program.run(name, context.args)  # by a command of the time before pipeline/processes/program.py
