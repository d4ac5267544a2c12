"""What the judgment store costs at three sizes, on SQLite and on Postgres.

    python -m benchmarks.judgments_scale FOLDER NAME [NAME ...]

NAME is sqlite-ANSWERS or postgres-ANSWERS, as sqlite-1000000. FOLDER keeps the files, or has them:
sqlite-ANSWERS.sqlite. Answers are those of benchmarks.judgments, but for texts and token ids, which
are drawn for 4,000 of them. Postgres is a server of its own that is started for each.

Into "scale" of benchmarks/judgments.json, by NAME:

bytes           an answer: the file, or all of Postgres's tables with their indexes
lines           of the ledger, one for 8 answers; entered before the rest is measured
find, prefixes, add, budget, claim, stats, verify
                as benchmarks/stored.py has them: the median by CPU time of the process (Postgres's
                own work is not in it) and by the clock. verify up to a million answers
"""

import json
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import before
from benchmarks.judgments import REPLY, REPORT, write
from tests import databases

DRAWN = 4000
TABLES = ("settings", "outcomes", "prefixes", "answers")
RATES = {"find": 5, "prefixes": 5, "add": 3}  # how often
SECONDS = {"budget": 9, "claim": 1, "stats": 1}
VERIFIED = 1_000_000  # answers at most


@contextmanager
def _url(folder: Path, kind: str, name: str) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder.absolute()}/{name}.sqlite"
        return
    with databases.postgres() as server:
        yield databases.url_of(server, "scale")


def _size(url: str) -> int:
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as connection:  # into the file what is beside it
            connection.execute("pragma wal_checkpoint(truncate)")
        return Path(path).stat().st_size
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        sizes = (f"pg_total_relation_size('{table}')" for table in TABLES)
        found = connection.execute(sa.text(f"select {' + '.join(sizes)}")).scalar_one()
    engine.dispose()
    return int(found)


def measured(folder: Path, name: str) -> dict[str, Any]:
    kind, _, count = name.partition("-")
    rows = int(count)
    with _url(folder, kind, name) as url:
        script = before.HERE / "benchmarks" / "stored.py"
        command = [sys.executable, str(script), url, str(rows), str(DRAWN)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, text=True, cwd=before.HERE, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def ask(line: str) -> tuple[float, float]:
                process.stdin.write(line + "\n")
                process.stdin.flush()
                cpu, wall = process.stdout.readline().split()
                return float(cpu), float(wall)

            def median(lines: list[str]) -> list[float]:
                return [statistics.median(one) for one in zip(*map(ask, lines), strict=True)]

            assert process.stdout.readline() == "ready\n"
            found: dict[str, Any] = {"bytes": _size(url) / rows, "lines": rows // REPLY}
            ask(f"lines {rows // REPLY}")
            for what, times in {**SECONDS, **RATES}.items():
                step = 4000 if what == "add" else 1
                start = rows if what == "add" else 0
                found[what] = median([f"{what} {start + step * i}" for i in range(times)])
            if rows <= VERIFIED:
                found["verify"] = median(["verify 0"])
            process.stdin.close()
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:]:
        found = measured(folder, name)
        kept = json.loads(REPORT.read_text()).get("scale", {}) if REPORT.is_file() else {}
        write(scale=kept | {name: found})
        sys.stdout.write(f"{name}: {found}\n")


if __name__ == "__main__":
    main()
