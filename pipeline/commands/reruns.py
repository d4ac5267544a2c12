"""Announce, before anything runs, which cells rerun because of code, and what that buys."""

from typing import Any

import typer

from pipeline.runner.dag import plan_files


def tell(wanted: dict[str, Any]) -> None:
    """Print a line for each variant of the plan whose cells rerun."""

    def bill(names: set[str]) -> str:
        # with all teachers: a second, for nothing in most plans
        from pipeline.commands import spending

        return spending.again(wanted, names)

    for line in plan_files.rerun(wanted, bill):
        typer.echo(line)
