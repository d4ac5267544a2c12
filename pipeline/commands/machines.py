"""`omniopd worker`, and what `omniopd run` is told of workers: docs/machines.md."""

import os
import re
from typing import Annotated

import typer

from pipeline.core.errors import UserError, short

HEAD = "127.0.0.1:6379"


def checked(on: str, listen: str) -> None:
    """--on and --listen of `omniopd run`, before anything is planned. Raises UserError.

    With workers this machine is not asked for what only cells need.
    """
    if not re.fullmatch(r"local|ray|ray:[^:]\S*:\d+", on):
        raise UserError(
            f"--on: found {short(on)}, wanted local, ray, or ray:HOST:PORT of a cluster that "
            "exists. Correct it."
        )
    if on == "local":
        return
    from pipeline.runner import preflight
    from pipeline.runner.workers import cluster

    cluster.package()
    cluster.parsed(on.partition(":")[2] or listen)
    os.environ[preflight.ELSEWHERE] = "1"  # stage `plan` looks, too


def worker(
    join: Annotated[str, typer.Option(help="HOST:PORT of the head to join")] = HEAD,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of this machine that cells may use")] = 0,
    serves: Annotated[str, typer.Option(help="kinds of cells to run, with commas")] = "gpu,api,cpu",
    parallel: Annotated[int, typer.Option(min=1, help="cells to run at a time")] = 1,
    ip: Annotated[
        str, typer.Option(help="address of this machine on which Ray listens")
    ] = "127.0.0.1",
) -> None:
    """Run cells for `omniopd run --on ray` in this folder, one run after another."""
    from pipeline.runner.workers import join as joining

    joining.work(join, gpus, serves, parallel, ip)
