"""`omniopd status`: what became of each cell, once or again and again."""

from typing import Annotated

import typer

from pipeline.core.errors import UserError

LEAST_SECONDS = 0.5  # between two looks


def status(
    every: Annotated[bool, typer.Option("--all", help="list each cell, the done ones too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, of all cells")] = False,
    again: Annotated[bool, typer.Option("--watch", help="again until nothing runs")] = False,
    seconds: Annotated[float, typer.Option(help="between two looks of --watch")] = 3.0,
) -> None:
    """Each cell: done, cached, running where, waiting for what, or failed and why.

    It takes no lock: use it beside `omniopd run` or `dvc repro`. Of files it looks whether they are
    there, not at their bytes, which `omniopd verify` does. On a terminal --watch draws arms by
    rounds and what runs, of a train cell also how it goes.
    """
    from pipeline.commands.status import look, shown, watch
    from pipeline.commands.view import screen

    def told(found: look.Look) -> str:
        return shown.document(found) if as_json else shown.text(found, every)

    if not again:
        typer.echo(told(look.Looker(tables=True).look()))
        return
    if not seconds >= LEAST_SECONDS:
        raise UserError(f"--seconds: found {seconds}, wanted at least {LEAST_SECONDS}. Correct it.")
    picture = screen.possible() and not (as_json or every)
    show = watch.drawn() if picture else watch.printed(told)
    watch.watch(look.Looker(tables=True), show, seconds)
