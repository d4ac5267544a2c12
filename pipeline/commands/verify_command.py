"""`omniopd verify`: is every stored byte still what it was?"""

import sys
import time
from typing import Annotated

import typer


def verify(
    remote: Annotated[bool, typer.Option("--remote", help="also check the default remote")] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="restore damaged files from a good copy, or remove them"),
    ] = False,
) -> None:
    """Check DVC's cache, the workspace, the judgment store and .resume/ for damage.

    Ends with 1 where damage is left. What is removed is made again by the next run.
    """
    from pipeline.commands import verify

    start = time.perf_counter()
    found = verify.verify(repair, remote)
    for line in (*found.notes, *(f"repaired: {what}" for what in found.repaired)):
        typer.echo(line)
    if found.cells:
        typer.echo(f"to rerun: {', '.join(sorted(found.cells))}")
    seconds = time.perf_counter() - start
    typer.echo(
        f"{found.files:,} files and answers, {found.bytes / 1e6:,.1f} MB of files, {seconds:.1f} s:"
        f" {len(found.notes)} damaged, {len(found.repaired)} of them repaired or removed"
    )
    if found.left:
        if not repair:
            typer.echo("`omniopd verify --repair` restores what has a good copy.")
        sys.exit(1)
