"""The console command `omniopd`. Every command acts on the project in the current directory."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.commands import exchange, judgments, machines, project, verify_command
from pipeline.commands.audit import audit_command
from pipeline.commands.compare import compare_command
from pipeline.commands.exp import exp_command
from pipeline.commands.sharing import cache_command, share_command
from pipeline.commands.status import status_command
from pipeline.commands.sweep import sweep_command
from pipeline.core.errors import STATUS, UserError, stop

QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="print only how it ends")]
# a command line that cannot be read: Typer gives its class no name
UNREADABLE: type[Exception] = typer.BadParameter.__bases__[0]
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(judgments.app, name="judgments")
teacher = typer.Typer(no_args_is_help=True, help="Teachers of params.yaml.")
app.add_typer(teacher, name="teacher")
app.command()(project.init)
app.command()(project.profile)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
    project.stage
)
app.command()(machines.worker)
app.command()(exchange.export)
app.command()(exchange.push)
app.command()(exchange.pull)
app.command("import")(exchange.import_)
app.command()(verify_command.verify)
app.add_typer(exp_command.app, name="exp")
app.command()(exp_command.dag)
app.command()(status_command.status)
app.command()(status_command.report)
app.command()(sweep_command.sweep)
app.command()(compare_command.compare)
app.command()(share_command.share)
app.add_typer(cache_command.app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"omniopd {version('omniopd-pipeline')}")
        raise typer.Exit


@app.callback()
def omniopd(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Distil a student on its own rollouts from a teacher that only writes text."""


@app.command()
def plan(
    check: Annotated[bool, typer.Option(help="only check that dag/ matches params.yaml")] = False,
) -> None:
    """Expand params.yaml into dag/, remove cells it no longer has, and link the arms."""
    from pipeline.commands import reruns
    from pipeline.plan import expand, experiment
    from pipeline.runner import retention
    from pipeline.runner.dag import plan_files

    if check:
        plan_files.mark(plan_files.check(buying=True))
    else:
        wanted = plan_files.write()
        typer.echo(f"dag: {len(expand.upstream(wanted))} cells")
        reruns.tell(wanted)
        typer.echo(experiment.load().adapters())
        if kept := retention.line(retention.of(wanted, retention.wanted())):
            typer.echo(kept)


@app.command()
def repro(
    parallel: Annotated[int, typer.Option(min=1, help="cells to run at a time")] = 1,
    quiet: QUIET = False,
) -> None:
    """Plan, then run plain `dvc repro`, or the same cells several at a time (--parallel)."""
    from pipeline.commands import reruns
    from pipeline.commands.view import live
    from pipeline.report import ending
    from pipeline.runner import repro
    from pipeline.runner.dag import plan_files

    if parallel > 1:
        _side_by_side(quiet, parallel, prefect=False)
        return
    before = ending.stamp()
    wanted = plan_files.write(buying=True)
    with live.shown(quiet):
        reruns.tell(wanted)
        seconds = repro.repro()
    nothing = f"nothing to do: every stage is up to date. {ending.PAGE}"
    typer.echo(ending.result(before) or nothing)
    typer.echo(f"run: {seconds:.0f} s; {_took()}")


@app.command()
def run(
    parallel: Annotated[
        int, typer.Option(min=1, help="cells to run at a time on this machine")
    ] = 1,
    on: Annotated[
        str, typer.Option(help="local, ray, or ray:HOST:PORT of an existing cluster")
    ] = "local",
    listen: Annotated[
        str, typer.Option(help="HOST:PORT on which the Ray head listens")
    ] = machines.HEAD,
    quiet: QUIET = False,
) -> None:
    """Run the same cells as a Prefect flow, independent ones in parallel, here or on workers."""
    machines.checked(on, listen)
    _side_by_side(quiet, parallel, on, listen)


def _side_by_side(quiet: bool, *how: Any, **more: Any) -> None:
    """Plan, then `pipeline.runner.flow.run` as `how` and `more` say."""
    from pipeline.commands import reruns
    from pipeline.commands.view import live
    from pipeline.report import ending
    from pipeline.runner import flow
    from pipeline.runner.dag import plan_files

    before = ending.stamp()
    wanted = plan_files.write(buying=True)
    with live.shown(quiet):
        reruns.tell(wanted)
        flow.run(*how, **more)
    typer.echo(ending.result(before) or ending.PAGE)
    typer.echo(_took())


@app.command()
def drop() -> None:
    """Drop the checkpoints that experiment.keep_checkpoints does not keep."""
    from pipeline.config import params_file
    from pipeline.runner import repro, retention
    from pipeline.runner.dag import plan_files

    found = plan_files.current()
    keep = retention.of(found, retention.wanted())
    typer.echo(repro.drop(found, keep, params_file.runtime().drop_shared))


def _took() -> str:
    from pipeline.runner.dag import plan_files
    from pipeline.stage import run_records

    seconds = run_records.seconds(plan_files.current())
    return f"all stages of the plan, whenever they ran: {seconds:,.0f} s"


@app.command()
def show(name: Annotated[str, typer.Argument(help="a cell's key, or an arm")]) -> None:
    """Show what a cell is and what it reads, or an arm's cells by seed and round."""
    from pipeline.commands import describe
    from pipeline.runner.dag import plan_files

    typer.echo(describe.show(plan_files.current(), name))


@app.command()
def why(name: Annotated[str, typer.Argument(help="a cell's key, or an arm")]) -> None:
    """Say what changed in the code, inputs and params of a cell or an arm since it last ran."""
    from pipeline.runner.dag import plan_files, why

    typer.echo(why.explain(plan_files.current(), plan_files.locked(), name))


@app.command("verify-code")
def verify_code() -> None:
    """Run one cell of each variant whose code changed; if its bytes are equal, accept the rest."""
    from pipeline.runner.dag import accept, plan_files

    found, count = plan_files.write(), 0
    for one in accept.verify(found, plan_files.locked()):
        count += 1
        tried = f", tried {one.tried}" if one.tried else ""
        typer.echo(f"{one.variant}, {len(one.cells)} cells{tried}: {one.said}")
    if not count:
        typer.echo("nothing to accept: every cell ran with the code that is here")


@app.command()
def estimate(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    tflops: Annotated[float | None, typer.Option(help="TFLOP/s that the device sustains")] = None,
    gb_per_s: Annotated[float | None, typer.Option(help="GB/s that its memory sustains")] = None,
    profile: Annotated[str | None, typer.Option(help="of a profile, not of params.yaml")] = None,
) -> None:
    """Estimate teacher cost, memory of each stage, cache size and hours, without a request."""
    from pipeline.commands import spending

    typer.echo(spending.estimate(as_json, tflops, gb_per_s, profile))


app.command()(audit_command.audit)


@app.command()
def harness(
    name: Annotated[str, typer.Argument(help="a checkpoint folder, or an arm (its last round)")],
    tasks: Annotated[str, typer.Option(help="tasks of the harness, with commas")],
    include: Annotated[Path | None, typer.Option(help="folder with your own task files")] = None,
    seed: Annotated[int, typer.Option(help="seed of the arm")] = 0,
    limit: Annotated[int | None, typer.Option(help="problems per task; default: all")] = None,
    chat: Annotated[bool, typer.Option(help="apply the checkpoint's chat template")] = True,
) -> None:
    """Evaluate a checkpoint with lm-evaluation-harness (extra `harness`) and print JSON."""
    from pipeline.commands import lm_eval
    from pipeline.runner.dag import plan_files

    found = {} if Path(name).is_dir() else plan_files.current()
    folder = lm_eval.checkpoint(found, name, seed)
    typer.echo(lm_eval.text(lm_eval.run(folder, tasks.split(","), include, limit, chat)))


@teacher.command()
def check(
    name: Annotated[
        str | None,
        typer.Argument(help="a teacher's name, or PROVIDER:MODEL; default: block teach's"),
    ] = None,
    force: Annotated[bool, typer.Option(help="allow its use although a probe failed")] = False,
) -> None:
    """Show what a hosted teacher reads, request short samples, and say whether it can be used."""
    from pipeline.commands import spending

    typer.echo(f"{spending.prompts(name)}\n")
    verdict = spending.check(name, force)
    typer.echo(str(verdict))
    if not verdict.passed and not force:
        sys.exit(1)


def main() -> None:
    from pipeline.core import verified
    from pipeline.processes import stopping
    from pipeline.stage import cells

    for stream in (sys.stdout, sys.stderr):  # in a locale without a sign, its number is shown
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cells.log_to_stderr()
    try:
        with verified.reading():
            status = app(prog_name="omniopd", standalone_mode=False)
    except stopping.Stopped as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.status)
    except (UserError, OSError) as error:
        stop(error)
    except UNREADABLE as error:
        stop(_usage(error))
    except typer.Abort:
        sys.exit(130)
    sys.exit(status)


def _usage(error: Any) -> UserError:
    """A command line that cannot be read, as one paragraph; without a command, its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(STATUS)
    path = "omniopd" if error.ctx is None else error.ctx.command_path
    said = error.format_message().rstrip(".")
    return UserError(f"{path}: {said}. Correct it: `{path} --help` says what it takes.")


if __name__ == "__main__":
    main()
