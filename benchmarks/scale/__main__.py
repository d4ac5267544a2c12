"""Measure components, or the named ones: `python -m benchmarks.scale [COMPONENT[:N] ...]`.

dag       a no-op of plain `dvc repro`, `omniopd plan`, and a folder as remote: push, status, fetch
s3        the same three of an S3 server on loopback
flow      `omniopd run` of cells that do nothing
sleep     the same of cells that sleep, by the clock
schedule  the flow's own choice of what starts next, without DVC
prefect   the process that shows a run in Prefect
offer     one cell's files to a remote that holds so many
postgres  Postgres's own work for answers that are added
store     the store of answers: as benchmarks.judgments_scale has it, into its own file

Each size runs in a process of its own and is written when it is done.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.measure import alone
from benchmarks.scale import (
    dag_units,
    flow_units,
    offer_units,
    postgres_units,
    prefect_units,
    s3_units,
    schedule_units,
    sleep_units,
)

REPORT = Path(__file__).parent.parent / "scale.json"
COMPONENTS = {
    "dag": dag_units,
    "s3": s3_units,
    "flow": flow_units,
    "schedule": schedule_units,
    "sleep": sleep_units,
    "prefect": prefect_units,
    "offer": offer_units,
    "postgres": postgres_units,
}
STORE = ("sqlite-10000", "sqlite-30000", "sqlite-300000")  # others are in its file already


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--one"]:
        sys.stdout.write(json.dumps(_one(*words[1:])) + "\n")
        return
    for word in tqdm(_asked(words), desc="scale", unit="size", disable=None):
        name, _, place = word.partition(":")
        if name == "store":
            _store(STORE[int(place)])
        else:
            found = alone("benchmarks.scale", "--one", name, place)
            write(name, found)
            sys.stdout.write(f"{word}: {found}\n")


def _asked(words: list[str]) -> list[str]:
    counts = {name: len(unit.SIZES) for name, unit in COMPONENTS.items()} | {"store": len(STORE)}
    found = []
    for word in words or list(counts):
        name, _, place = word.partition(":")
        if name not in counts:
            sys.exit(f"found component {name}, wanted one of {', '.join(counts)}")
        found += [word] if place else [f"{name}:{i}" for i in range(counts[name])]
    return found


def _one(name: str, place: str) -> dict[str, Any]:
    unit = COMPONENTS[name]
    with tempfile.TemporaryDirectory() as folder:
        found = unit.measured(Path(folder), unit.SIZES[int(place)])
    return {**found, "load": os.getloadavg()[0]}


def _store(name: str) -> None:
    from benchmarks import judgments_scale

    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = [folder, name]
        judgments_scale.main()


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
    return found


def write(name: str, found: dict[str, Any]) -> None:
    """Into the report, by the size that it has."""
    kept = read()
    sizes = kept.get(name, {}) | {str(found["size"]): found}
    kept[name] = {size: sizes[size] for size in sorted(sizes, key=int)}
    REPORT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
