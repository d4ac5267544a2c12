"""A look again and again, until nothing runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from pipeline.commands.status.look import Look, Looker
from pipeline.processes import stopping


def watch(looker: Looker, told: Callable[[Look], str], seconds: float, drawn: bool) -> None:
    """Show what `told` makes of each look; `drawn`: in the place of the last, on a terminal.

    Raises Stopped where a signal asks for an end.
    """
    try:
        with stopping.heard(), _screen(drawn) as show:
            while True:
                found = looker.look()
                show(told(found))
                if not found.at_work:
                    return
                time.sleep(seconds)
    except stopping.Asked as asked:
        raise stopping.Stopped("it only looked: what runs goes on.", asked) from None


@contextmanager
def _screen(drawn: bool) -> Iterator[Callable[[str], None]]:
    if not drawn:
        last = [""]

        def once(text: str) -> None:
            if text != last[0]:
                typer.echo(text + "\n")
            last[0] = text

        yield once
        return
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:  # of what does not fit the terminal, the head

        def draw(text: str) -> None:
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

        yield draw
