"""The command line of `omniopd compare`."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.files import replacing


def compare(
    names: Annotated[
        list[str], typer.Argument(help="revisions, DVC experiments, folders, sweeps, points")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to write; default: data/comparison.png")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="page with answers to write; default: data/comparison.html")
    ] = None,
) -> None:
    """Compare experiments: accuracies with intervals, params that differ, cells they share,
    and what each cost. The first is what the others are compared with.

    Nothing is run, and what did not run is left out.
    """
    from pipeline.commands.compare import answers, compared, found, shown
    from pipeline.commands.compare import page as pages
    from pipeline.commands.compare import picture as pictures

    with ExitStack() as stack:
        experiments = found.experiments(names, stack)
        numbers = {one.name: compared.measured(one) for one in experiments}
        values = compared.document(experiments, numbers)
        beside = answers.view(experiments)
    folder = Path("data" if Path("data").is_dir() else "")
    place = picture or folder / "comparison.png"
    pictures.draw(values, place)
    written = page or folder / "comparison.html"
    with replacing(written) as temporary:
        temporary.write_text(pages.html(values, beside), encoding="utf-8")
    if as_json:
        places = {"picture": str(place), "page": str(written)}
        typer.echo(json.dumps({**values, **places}, allow_nan=False))
    else:
        typer.echo(f"{shown.text(values)}\n\npicture: {place}\npage: {written}")
