"""`omniopd share`: a cache, a remote and a store of answers that a team has in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError

CACHE = typer.Option(help="folder on a shared disk: the DVC cache of all clones")
REMOTE = typer.Option(help="URL of a DVC remote, such as s3://BUCKET/PATH")
ENDPOINT = typer.Option(help="S3 endpoint if not Amazon's, such as https://HOST:PORT")
JUDGMENTS = typer.Option(help="URL of the judgment store, without a password")


def share(
    cache: Annotated[Path | None, CACHE] = None,
    remote: Annotated[str | None, REMOTE] = None,
    endpoint: Annotated[str | None, ENDPOINT] = None,
    name: Annotated[str, typer.Option(help="name of the remote")] = "team",
    judgments: Annotated[str | None, JUDGMENTS] = None,
) -> None:
    """Set up what a team shares, after a round trip; without options, test what is set up."""
    from pipeline.runner.sharing import answers, shared
    from pipeline.runner.sharing import remote as remotes

    _in_project()
    if endpoint and not remote:
        raise UserError(
            "--endpoint: found it without --remote, wanted both. Add --remote s3://BUCKET/PATH."
        )
    if cache is None and remote is None and judgments is None:
        _again()
    if cache is not None:
        _say(shared.share(cache))
    if remote is not None:
        _say(remotes.share(remote, endpoint, name))
    if judgments is not None:
        _say(answers.share(judgments))


def _again() -> None:
    from pipeline.core import dvc_objects
    from pipeline.judgments import store
    from pipeline.runner.sharing import answers, links, remote, shared

    if links.shared():
        _say(shared.share(dvc_objects.configured().parents[1]))
    _say(remote.again())
    typer.echo(answers.tried(store.url()))


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _in_project() -> None:
    if not Path(".dvc").is_dir():
        raise UserError(
            f"{Path.cwd()}: found no .dvc, wanted a project. Run this in the project's folder."
        )
