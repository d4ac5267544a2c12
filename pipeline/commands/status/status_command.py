"""`omniopd status`: what became of each cell, once or again and again; `omniopd report`."""

from typing import Annotated

import typer

from pipeline.core.errors import UserError

LEAST_SECONDS = 0.5  # between two looks


def status(
    every: Annotated[
        bool, typer.Option("--all", help="list every cell, including finished ones")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON of all cells")] = False,
    again: Annotated[bool, typer.Option("--watch", help="redraw until nothing runs")] = False,
    seconds: Annotated[float, typer.Option(help="seconds between two updates of --watch")] = 3.0,
) -> None:
    """Show each cell: done, cached, running where, waiting for what, or failed and why.

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


def report(
    partial: Annotated[
        bool, typer.Option("--partial", help="only arms and seeds that have finished")
    ] = False,
) -> None:
    """Print where the report is; with --partial, write one on what has finished so far.

    A partial report lies in data/partial, has a note of what is left out, and no branches. It is no
    stage: nothing depends on it, and `omniopd repro` makes the whole one.
    """
    from pipeline.commands.status import partial as of_what_is_through
    from pipeline.report.ending import REPORT

    page = REPORT / "index.html"
    if partial:
        page = of_what_is_through.draw()
    elif not page.is_file():
        raise UserError(
            f"{page}: not there. `omniopd repro` makes it, `omniopd report --partial` one of what "
            "is through."
        )
    typer.echo(f"page: {page}")
