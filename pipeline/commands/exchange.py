"""`omniopd export`, `import`, `push` and `pull`: to and from other people's trainers."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from pipeline.commands.dumps.told import Told


FORMAT = typer.Option("--format", help="the trainer that wrote the file: docs/in-and-out.md")
REASON = typer.Option(help="how all responses ended, if the file does not say")
LIMIT = typer.Option(min=1, help="in place of it: tokens at which the trainer cut responses")
REWARD = typer.Option(help="the reward column, if there are several candidates")
Format = Annotated[Literal["trl", "verl", "openrlhf", "prime-rl"] | None, FORMAT]
Reason = Annotated[Literal["stop", "length"] | None, REASON]
Limit = Annotated[int | None, LIMIT]
What = Annotated[Literal["checkpoint", "rollouts", "answers"], typer.Option(help="what to push")]
Reward = Annotated[str | None, REWARD]


def export(
    name: Annotated[str, typer.Argument(help="an arm of the plan, or the folder of an audit")],
    to: Annotated[Literal["hf", "trl", "verl", "jsonl"], typer.Option(help="target format")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    seed: Annotated[int | None, typer.Option(help="seed of the arm; default: its first")] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="round of the arm; default: its last")
    ] = None,
) -> None:
    """Export a checkpoint with a model card, or the targets of a round for another trainer."""
    from pipeline.commands import exports
    from pipeline.commands.exports import source

    exports.export(source.find(name, seed, round_), to, out)
    typer.echo(out)


def push(
    name: Annotated[str, typer.Argument(help="an arm of the plan, or the folder of an audit")],
    to: Annotated[str, typer.Option(help="hub:USER/NAME; created if it does not exist")],
    what: What = "checkpoint",
    seed: Annotated[int | None, typer.Option(help="seed of the arm; default: its first")] = None,
    round_: Annotated[
        int | None, typer.Option("--round", help="round of the arm; default: its last")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Push a checkpoint with a model card, or a table of a round with a card, to the hub."""
    from pipeline.commands.exports import hub, source

    typer.echo(hub.push(source.find(name, seed, round_), to, what, public))


def pull(
    name: Annotated[str, typer.Argument(help="hub:USER/NAME")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    what: What = "checkpoint",
    revision: Annotated[str | None, typer.Option(help="commit; default: the newest")] = None,
) -> None:
    """Pull what was pushed to the hub, without pickled weights, and check it."""
    from pipeline.commands.exports import hub

    hub.pull(name, what, out, revision)
    typer.echo(out)


def import_(
    rollouts: Annotated[
        Path, typer.Argument(help="JSON, Parquet, Arrow or a folder: docs/in-and-out.md")
    ],
    student: Annotated[str, typer.Option(help="a folder, a hub name, or PACKAGE/FILE.gguf")],
    out: Annotated[Path, typer.Option(help="working folder, as for `omniopd audit`")] = Path(
        "audit"
    ),
    count: Annotated[
        int | None, typer.Option(min=2, help="number of prompts; default: all")
    ] = None,
    device: Annotated[str, typer.Option(help="device of the student")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="default: one per core")] = None,
    format_: Format = None,
    finish_reason: Reason = None,
    response_limit: Limit = None,
    reward: Reward = None,
) -> None:
    """Import the rollouts of another trainer; they are checked and scored by the student.

    `omniopd audit --rollouts` does the same first, and goes on from what is in the folder.
    """
    from pipeline.commands.audit import audit
    from pipeline.commands.audit.audit_params import Options

    options = Options(
        student, student, rollouts, out, count=count or sys.maxsize, device=device,
        threads=threads or os.cpu_count() or 1, imported=True,
        dump=dump(format_, finish_reason, response_limit, reward),
    )  # fmt: skip
    typer.echo(audit.imported(options))


def one_of(prompts: Path | None, rollouts: Path | None) -> Path:
    """The file that an audit reads. Raises UserError unless there is exactly one."""
    named = [path for path in (prompts, rollouts) if path is not None]
    if len(named) != 1:
        found = "both" if named else "neither"
        raise UserError(f"--prompts, --rollouts: found {found}, wanted one. Name one file.")
    return named[0]


def dump(
    format_: Format, finish_reason: Reason, response_limit: Limit, reward: Reward
) -> "Told | None":
    """The user's options for a dump. Raises UserError where they contradict each other."""
    from pipeline.commands.dumps.told import Told

    options = {"--finish-reason": finish_reason, "--response-limit": response_limit}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{', '.join(given)}: found both, wanted one. Leave one out.")
    given += ["--reward"] if reward is not None else []
    if format_ is None and given:
        raise UserError(
            f"{', '.join(given)}: found without --format, wanted with it: rows of `omniopd import` "
            "itself have the fields finish_reason and reward. Add --format, or leave it out."
        )
    return None if format_ is None else Told(format_, finish_reason, response_limit, reward)
