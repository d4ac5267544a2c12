"""`omniopd judgments ...`: look into the judgment store, hand it on, check it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import UserError

app = typer.Typer(no_args_is_help=True, help="The store of teacher answers (JUDGMENTS_URL).")
File = Annotated[Path, typer.Argument(help="a Parquet file")]


@app.command()
def stats(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Count answers bought, reused and missed, and what they cost."""
    from tabulate import tabulate

    from pipeline.judgments import archive, store

    with store.Store(store.url()) as opened:
        found = archive.stats(opened)
        name = opened.name
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    teachers = found.pop("teachers")
    typer.echo(f"{name}\n\n{tabulate(found.items(), tablefmt='plain', intfmt=',')}")
    if teachers:
        typer.echo("\n" + tabulate(teachers, headers="keys", intfmt=","))


@app.command()
def export(
    file: File,
    without: Annotated[list[str] | None, typer.Option(help="a provider to leave out")] = None,
) -> None:
    """Write all answers to Parquet, to pass on or to track with DVC."""
    from pipeline.judgments import archive, store
    from pipeline.teachers.capabilities import TABLE

    known = {*TABLE, "local"}
    if wrong := set(without or ()) - known:
        raise UserError(
            f"--without: found {sorted(wrong)}, wanted one of {sorted(known)}. Name one."
        )
    with store.Store(store.url()) as opened:
        count = archive.export(opened, file, without or ())
        left = opened.stats().answers - count
    typer.echo(f"{count:,} answers to {file}, {left:,} left out")


@app.command("import")
def import_(file: File) -> None:
    """Add the answers of an export; a damaged file is refused as a whole."""
    from pipeline.judgments import archive, store

    with store.Store(store.url()) as opened:
        moved = archive.import_(opened, file)
    typer.echo(f"{moved.read:,} answers read, {moved.new:,} of them new")


@app.command()
def merge(other: Annotated[str, typer.Argument(help="URL of another store")]) -> None:
    """Add the answers of another store, such as a colleague's file or the team's Postgres."""
    from pipeline.judgments import archive, store

    with archive.source(other) as source, store.Store(store.url()) as opened:
        moved = archive.merge(opened, source)
    typer.echo(f"{moved.read:,} answers read, {moved.new:,} of them new")


@app.command()
def recover(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Parquet files exported from another store")
    ] = None,
) -> None:
    """Store answers that had arrived but could not be stored (from this project's .spool)."""
    from pipeline.judgments import recovery, spool, store
    from pipeline.stage import cells

    with store.Store(store.url(), cells.project(), spool.FOLDER) as opened:
        assert opened.spool is not None
        paths, others = files or opened.spool.waiting(), opened.spool.others()
        found = recovery.recover(opened, paths)
        name = opened.name
    typer.echo(
        f"{len(paths):,} files, {found.replies:,} replies read, {found.answers:,} answers new in "
        f"{name}"
    )
    if found.busy:
        typer.echo(f"{found.busy:,} files are still written to by another process, and stay")
    if others and not files:
        typer.echo(f"answers of another store, taken in only by name: {' '.join(map(str, others))}")


@app.command()
def verify() -> None:
    """Check every answer against its key and its checksum."""
    from pipeline.judgments import archive, store

    with store.Store(store.url()) as opened:
        typer.echo(f"{archive.verify(opened):,} answers, all sound")


@app.command()
def repair(
    drop_damaged: Annotated[
        bool,
        typer.Option(
            "--drop-damaged", help="remove answers that cannot be repaired; they are bought again"
        ),
    ] = False,
) -> None:
    """Repair damaged answers where that is free; list the others and what buying them costs."""
    from pipeline.judgments import repair, store

    with store.Store(store.url(), drop_damaged=drop_damaged) as opened:
        done = repair.repair(opened)
        dropped = repair.drop(opened, done.damaged) if drop_damaged else 0
        name = opened.name
    for what, rows in (("repaired", done.repaired), ("damaged", done.damaged)):
        for row in rows:
            typer.echo(f"{what}: {row.name}: {row.why}")
    if done.reindexed:
        typer.echo("repaired: the indexes of the file did not fit its tables")
    if done.recounted:
        typer.echo(
            f"repaired: {done.recounted:,} prefixes said that they had other numbers of answers"
        )
    for project in done.totals:
        typer.echo(
            f"repaired: the total of {project or 'no project'} was not the sum of its ledger"
        )
    typer.echo(f"{name}: {done.rows:,} answers, {len(done.repaired):,} repaired")
    if not done.damaged:
        return
    cost = (
        f"{len(done.damaged):,} damaged answers cost ${sum(row.usd for row in done.damaged):.4f} "
        "when they were bought"
    )
    if drop_damaged:
        typer.echo(f"{cost}; {dropped:,} removed. The next run that needs them buys them again.")
        return
    raise UserError(
        f"{cost}. Nothing of them was changed. `omniopd judgments repair --drop-damaged` removes "
        "them, and the next run that needs them buys them again; `omniopd judgments import FILE` "
        "after it brings them back from an export for nothing."
    )


@app.command()
def gc() -> None:
    """Remove expired claims, uncollectable batches and unused space; never answers."""
    from pipeline.judgments import archive, store

    with store.Store(store.url()) as opened:
        removed = archive.gc(opened)
    typer.echo(f"removed: {removed.claims:,} lapsed claims, {removed.batches:,} old batches")
