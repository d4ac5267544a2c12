"""Commands around those of DVC: `omniopd exp run`, `omniopd exp show`, `omniopd dag`."""

import sys
from typing import Annotated

import typer

PASSED = {"allow_extra_args": True, "ignore_unknown_options": True}
app = typer.Typer(no_args_is_help=True, help="DVC experiments on params.yaml.")


@app.command(context_settings=PASSED)
def run(
    context: typer.Context,
    set_param: Annotated[
        list[str] | None, typer.Option("--set-param", "-S", help="KEY=VALUE, as in params.yaml")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="name of the experiment")] = None,
) -> None:
    """Set values, plan, and run a DVC experiment in this folder; other flags go to DVC."""
    from pipeline.commands.exp import exp_run

    typer.echo(exp_run.run(set_param or [], name, context.args))


@app.command(context_settings=PASSED | {"help_option_names": ["--help"]})
def show(context: typer.Context) -> None:
    """Run `dvc exp show` on accuracies and on differing params; all flags go to DVC."""
    from pipeline.commands.exp import exp_show

    sys.exit(exp_show.show(context.args))


def dag(
    md: Annotated[bool, typer.Option("--md", help="print Mermaid in a Markdown block")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="print Mermaid")] = False,
) -> None:
    """Draw the plan by arm, with the number of cells; `dvc dag` has a node for each cell."""
    from pipeline.commands.exp import dag_picture

    typer.echo(dag_picture.picture("md" if md else "mermaid" if mermaid else "text"))
