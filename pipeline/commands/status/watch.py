"""A look again and again, until nothing runs."""

import sys
import time
from collections.abc import Callable

import typer

from pipeline.commands.status.look import Look, Looker
from pipeline.processes import stopping


def watch(looker: Looker, show: Callable[[Look], None], seconds: float) -> None:
    """Hand each look to `show`. Raises Stopped where a signal asks for an end."""
    try:
        with stopping.heard():
            while True:
                found = looker.look()
                show(found)
                if not found.at_work:
                    return
                time.sleep(seconds)
    except stopping.Asked as asked:
        raise stopping.Stopped("it only looked: what runs goes on.", asked) from None


def drawn() -> Callable[[Look], None]:
    """What draws a look as a picture, in the place of the last on the terminal."""
    from pipeline.commands.view import picture, screen

    terminal = screen.Screen(sys.stdout.fileno(), sys.stdout.encoding)

    def draw(found: Look) -> None:
        terminal.draw(picture.picture(found, picture.Sheet(*terminal.size(), terminal.plain)))

    return draw


def printed(told: Callable[[Look], str]) -> Callable[[Look], None]:
    """What prints each look as text that is not that of the last."""
    last = [""]

    def once(found: Look) -> None:
        if (text := told(found)) != last[0]:
            typer.echo(text + "\n")
        last[0] = text

    return once
