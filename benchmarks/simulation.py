"""What an experiment at scale would meet: `python -m benchmarks.simulation`.

Prints tables, and writes them into benchmarks/simulated.md.

First each unit cost from three sizes beside what was measured at a fourth; then what single
components would take at larger sizes; then the simulation (benchmarks/scale/world.py) of rounds of
many arms and seeds on many workers, by how long a stage takes; last the experiment as a whole.

Measured: benchmarks/scale.json, benchmarks/judgments.json. What lies beyond the largest measured
size is marked with *. Seconds of stages and the shape of the experiment are assumptions, below.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tabulate import tabulate

from benchmarks.scale import units
from benchmarks.scale.world import Costs, Experiment, Result, plan, simulate

RESULTS = units.HERE / "results.json"
TABLES = units.HERE / "simulated.md"
WITHIN = 0.25  # of what was measured, a prediction should be
CHAINS, ROUNDS, WORKERS = 500, 1_000, 500  # arms times seeds: 25 of 20, as 100 of 5
ROLLOUTS, JUDGMENTS = 10**7, 10**9
LOOKED = 10  # rounds that are simulated where each stage is a cell
STAGES = (3.0, 10.0, 30.0, 100.0, 300.0)  # s of a stage
STEPS = 100  # rounds in a cell, in its place
SHORT = 10.0  # s of a stage there
LONG = 100.0  # s of a stage where chains are compared
SLEEP = 15.0  # s of a cell of benchmarks/workers.py
CORES = 8  # of Postgres's machine
CELLS = (2_000, 10_000, 100_000, 1_000_000)

Units = dict[str, units.Unit]


def main() -> None:
    measured = units.read()
    known = units.calibrated(measured)
    most = {name: max(map(int, sizes)) for name, sizes in measured.items() if sizes}
    parts = (
        ("Predicted from three sizes, and measured", _checked(units.checks(measured))),
        ("`omniopd run` of cells that sleep, by the clock", _sleeping(known, measured["sleep"])),
        ("Workers on Ray, by the clock", _workers(known)),
        ("Single components, by cells", _components(known, most)),
        ("The store", _store(known, most)),
        (f"{CHAINS} chains, {LOOKED} rounds, a cell for each stage", _by_seconds(known)),
        (f"By chains, a stage takes {LONG:g} s, a remote on S3", _by_chains(known)),
        (f"{CHAINS} chains, {ROUNDS} rounds, cells of {STEPS} rounds", _whole(known)),
    )
    found = [(title, list(lines)) for title, lines in parts]
    text = "\n".join("\n".join([f"## {title}\n", *lines, ""]) for title, lines in found if lines)
    TABLES.write_text(
        f"# By `python -m benchmarks.simulation`; docs/scale.md explains it\n\n{text}"
    )
    sys.stdout.write(text)


def _checked(checks: Sequence[units.Check]) -> Iterator[str]:
    rows = [
        [
            one.name,
            one.size,
            f"{one.unit.start:.4g} + {one.unit.each:.3g} n" if one.unit.each else "the same",
            f"{one.predicted:.4g}",
            f"{one.measured:.4g}",
            f"{one.off:+.0%}",
            "" if abs(one.off) <= WITHIN else "misses",
        ]
        for one in checks
    ]
    head = ["what", "fourth size n", "from three", "predicted", "measured", "off", ""]
    yield _table(rows, head)
    hits = sum(abs(one.off) <= WITHIN for one in checks)
    yield f"\nWithin {WITHIN:.0%}: {hits} of {len(checks)}."


def _sleeping(known: Units, measured: dict[str, dict[str, float]]) -> Iterator[str]:
    from benchmarks.scale import sleep_units as unit

    rows = []
    head = known["flow.cpu"].each
    own = Costs(head=head, sent=0, remote=0, prefect=known["prefect.cpu"].each, add=0)
    for size in unit.SIZES:
        reads = unit.reads(size)
        if (found := measured.get(str(len(reads) + 1))) is None:  # with stage plan
            continue
        told = plan(reads, unit.SECONDS, unit.PARALLEL, own)
        off = f"{told / found['wall'] - 1:+.0%}"
        rows.append(
            [len(reads), f"{told:.0f}", f"{found['wall']:.0f}", off, f"{found['load']:.1f}"]
        )
    yield f"{unit.SECONDS:g} s each, {unit.PARALLEL} at a time; nothing is fitted.\n"
    yield _table(rows, ["cells", "simulated, s", "measured, s", "off", "load of the machine"])


def _workers(known: Units) -> Iterator[str]:
    """Of the plan of benchmarks/workers.py, where that has been measured."""
    reads: dict[str, list[str]] = {f"first {seed}": [] for seed in range(4)}
    for arm in range(4):
        for seed in range(4):
            reads[f"{arm} {seed} 1"] = [f"first {seed}"]
            reads[f"{arm} {seed} 2"] = [f"{arm} {seed} 1"]
    own = costs(known, "folder")
    rows = []
    for row in json.loads(RESULTS.read_text()):
        if (count := {"workers_two": 2, "workers_four": 4}.get(row["name"])) is not None:
            told = plan(reads, SLEEP, count, own)
            off = f"{told / row['value'] - 1:+.0%}"
            rows.append([count, f"{told:.0f}", f"{row['value']:.0f}", off])
    if rows:
        yield f"{len(reads)} cells of {SLEEP:g} s; nothing is fitted.\n"
        yield _table(rows, ["workers", "simulated, s", "measured, s", "off"])


def _components(known: Units, most: dict[str, int]) -> Iterator[str]:
    names = {
        "dag.noop_cpu": "no-op `dvc repro`, CPU s",
        "dag.noop_mib": "its memory, MiB",
        "dag.plan_cpu": "`omniopd plan`, CPU s",
        "dag.plan_mib": "its memory, MiB",
        "flow.cpu": "`omniopd run`, the head, CPU s",
        "flow.mib": "its memory, MiB",
        "ray.cpu": "the head with workers on Ray, CPU s",
        "ray.mib": "its memory, MiB",
        "prefect.cpu": "Prefect's process, CPU s",
        "prefect.mib": "its memory, MiB",
        "prefect.bytes": "Prefect's SQLite file, MiB",
    }
    rows = []
    for name, said in names.items():
        if (one := known.get(name)) is None:
            continue
        scale = 2**20 if name == "prefect.bytes" else 1
        values = [one.at(cells) / scale for cells in CELLS]
        largest = 1.1 * most[name.partition(".")[0]]
        marks = ["*" if cells > largest else "" for cells in CELLS]
        rows.append([said, *(f"{v:,.3g}{m}" for v, m in zip(values, marks, strict=True))])
    yield _table(rows, ["", *(f"{cells:,} cells" for cells in CELLS)])


def _store(known: Units, most: dict[str, int]) -> Iterator[str]:
    rows = []
    for name, said, unit in (
        ("store.bytes", "SQLite's file, all of it", 2**30),
        ("store.add", "adds by one process, CPU h", 3600),
        ("store.find", "look-ups of all, one at a time, CPU h", 3600),
        ("store.claim", "the check before a process buys, CPU s", 1),
        ("store.verify", "`omniopd judgments verify`, CPU h", 3600),
        ("postgres.server_cpu", "Postgres's own work for adds, CPU h", 3600),
    ):
        if (one := known.get(name)) is None:
            continue
        every = name in ("store.bytes", "store.add", "store.find")
        sizes = (10**6, 10**7, JUDGMENTS)
        values = [one.at(n) * (n if every else 1) / unit for n in sizes]
        marks = ["*" if n > most[name.partition(".")[0]] else "" for n in sizes]
        said = f"{said}, GiB" if unit == 2**30 else said
        rows.append([said, *(f"{v:,.3g}{m}" for v, m in zip(values, marks, strict=True))])
    yield _table(rows, ["", "10^6 answers", "10^7", "10^9"])


def costs(known: Units, remote: str = "s3") -> Costs:
    """CPU seconds stand for seconds: of a machine with nothing else to do."""
    on_ray = known.get("ray.cpu")
    head = known["flow.cpu"].each
    files = sum(known[f"offer.{remote}_{one}_cpu"].at(0) for one in ("offer", "bring"))
    return Costs(
        head=head,
        sent=on_ray.each - head if on_ray else files,
        remote=files,
        prefect=known["prefect.cpu"].each,
        add=known["postgres.server_cpu"].each,
    )


def _by_seconds(known: Units) -> Iterator[str]:
    answers = JUDGMENTS // (CHAINS * ROUNDS)
    for remote, said in (("s3", "a remote on S3"), ("folder", "a remote that is a folder")):
        own = costs(known, remote)
        rows = []
        for seconds in STAGES:
            it = Experiment(CHAINS, LOOKED, 1, seconds, WORKERS, answers, CORES)
            rows.append([f"{seconds:g} s", simulate(it, own)])
        yield f"With {said}:\n"
        yield _results(rows, "a stage takes")
        each = own.head + own.sent
        yield (
            f"\nThe head takes {each:.3g} s a cell ({own.head:.3g} of it DVC and the flow), so "
            f"{WORKERS} workers keep it busy where a stage takes {WORKERS * each:.3g} s; Prefect's "
            f"process takes {own.prefect:.3g} s a cell.\n"
        )


def _by_chains(known: Units) -> Iterator[str]:
    rows = []
    for chains in (18, 100, CHAINS):
        it = Experiment(chains, LOOKED, 1, LONG, WORKERS, JUDGMENTS // (chains * ROUNDS), CORES)
        rows.append([f"{chains}", simulate(it, costs(known))])
    yield _results(rows, "chains")


def _whole(known: Units) -> Iterator[str]:
    answers = JUDGMENTS // (CHAINS * ROUNDS)
    own = costs(known)
    rows = []
    for name, writers, add in (
        ("Postgres", CORES, own.add),
        ("one writer, as SQLite", 1, known["store.add"].at(0)),
    ):
        it = Experiment(CHAINS, ROUNDS, STEPS, SHORT, WORKERS, answers, writers)
        rows.append([name, simulate(it, replace(own, add=add))])
    yield _results(rows, "store")
    whole = Experiment(CHAINS, ROUNDS, 1, SHORT, WORKERS).cells
    yield (
        f"\nA stage of one round takes {SHORT:g} s. {ROLLOUTS:,} rollouts are "
        f"{ROLLOUTS // (CHAINS * ROUNDS)} a round of a chain, {JUDGMENTS:,} judgments {answers}. "
        f"With a cell for each stage it were {whole:,} cells."
    )


def _results(rows: Sequence[Sequence[object]], first: str) -> str:
    table = []
    for name, one in rows:
        assert isinstance(one, Result)
        busy = [f"{one.busy[part]:.0%}" for part in ("workers", "head", "store", "prefect")]
        times = [f"{one.wall / 3600:,.2f} h", f"{one.wall / one.bound:.2f}"]
        behind = f"{one.behind / 60:,.0f} min"
        table.append([name, f"{one.cells:,}", *times, *busy, behind, one.first])
    head = [first, "cells", "takes", "times the bound", "workers busy", "head", "store", "Prefect"]
    return _table(table, [*head, "Prefect ends later", "nearest its end"])


def _table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
