"""What is said before anything runs: which cells run again for code, and what that buys."""

from typing import Any

import typer

from pipeline import dag


def tell(wanted: dict[str, Any]) -> None:
    """Print a line for each variant of the plan whose cells run again."""

    def bill(names: set[str]) -> str:
        from pipeline import spending  # with all teachers: a second, for nothing in most plans

        return spending.again(wanted, names)

    for line in dag.rerun(wanted, bill):
        typer.echo(line)
