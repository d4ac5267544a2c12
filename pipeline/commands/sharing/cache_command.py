"""`omniopd cache`: push, pull, and removing from a shared cache what nobody needs."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The shared cache and the remote: docs/sharing.md.")
Seconds = Annotated[float, typer.Option(min=1, help="seconds after which a transfer is abandoned")]
SECONDS = 3600.0


@app.command()
def push(seconds: Seconds = SECONDS) -> None:
    """Send what workspace, branches and tags need to the remote, and check that it arrived."""
    from pipeline.runner.sharing import transfer

    typer.echo(transfer.push(seconds))


@app.command()
def pull(seconds: Seconds = SECONDS) -> None:
    """Fetch what dvc.lock names from the remote; damaged files are refused by name."""
    from pipeline.runner.sharing import transfer

    typer.echo(transfer.pull(seconds))


@app.command()
def gc(
    dry: Annotated[bool, typer.Option("--dry", help="only print what would be removed")] = False,
    forget: Annotated[
        list[Path] | None, typer.Option(help="folder of a clone that no longer exists")
    ] = None,
    seconds: Seconds = SECONDS,
) -> None:
    """Remove from a shared cache what no branch, tag, experiment or workspace of a known clone
    needs.

    Refused while one of them is at work, and while the remote, if there is one, lacks what this
    clone needs.
    """
    from pipeline.core import dvc_objects
    from pipeline.runner.sharing import clones, collect, transfer

    for folder in forget or ():
        clones.forget(dvc_objects.configured().parents[1], os.path.abspath(folder))
        typer.echo(f"forgotten: {folder}")
    if transfer.remote():
        transfer.complete(seconds)
    found = collect.collect(dry)
    typer.echo(
        f"{'would remove' if dry else 'removed'} {found.objects:,} objects, {found.bytes:,} bytes; "
        f"{found.kept:,} are needed by {found.clones} clones"
    )
