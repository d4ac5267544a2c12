"""Announce, before anything runs, what reruns because of code and what the experiment can see."""

from typing import Any

import typer

from pipeline.commands.estimate import products
from pipeline.plan import experiment
from pipeline.plan.evaluation import power
from pipeline.runner.dag import plan_files


def tell(wanted: dict[str, Any]) -> None:
    """Print a line for each variant of the plan whose cells rerun, with what that buys; the
    smallest difference that is seen; and what this processor is slow at.
    """

    def bill(names: set[str]) -> str:
        # with all teachers: a second, for nothing in most plans
        from pipeline.commands import spending

        return spending.again(wanted, names)

    for line in plan_files.rerun(wanted, bill):
        typer.echo(line)
    file = experiment.load()
    typer.echo(power.line(file))
    if slow := products.line(file.pretrain.models, file.runtime):
        typer.echo(slow)
