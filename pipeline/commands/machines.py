"""`omniopd worker`, and what `omniopd run` is told of workers: docs/machines.md."""

import re
from typing import Annotated

import typer

from pipeline.core.errors import UserError, short

HEAD = "127.0.0.1:6379"


def checked(on: str) -> str:
    """--on of `omniopd run`. Raises UserError."""
    if not re.fullmatch(r"local|ray|ray:[^:]\S*:\d+", on):
        raise UserError(
            f"--on: found {short(on)}, wanted local, ray, or ray:HOST:PORT of a cluster that "
            "exists. Correct it."
        )
    return on


def worker(
    join: Annotated[str, typer.Option(help="HOST:PORT of the head")] = HEAD,
    gpus: Annotated[int, typer.Option(min=0, help="of this machine, that cells may use")] = 0,
    serves: Annotated[str, typer.Option(help="kinds of cells")] = "gpu,api,cpu",
    parallel: Annotated[int, typer.Option(min=1, help="cells at a time")] = 1,
    ip: Annotated[str, typer.Option(help="of this machine, where Ray listens")] = "127.0.0.1",
) -> None:
    """Make cells of `omniopd run --on ray` in this folder, for one run after another."""
    from pipeline.runner.workers import join as joining

    joining.work(join, gpus, serves, parallel, ip)
