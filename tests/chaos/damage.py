"""Files that are damaged or cannot be written: bits that flip, ends that are missing, full disks.

What is read afterwards is refused by name, or is what was written. What could not be written
leaves what was there before.
"""

import functools
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from tests.answers import all_asked, answer
from tests.chaos import stages
from tests.chaos.buying import FORKED
from tests.chaos.counted import HANG_SECONDS, Outcome, Place, kind
from tests.project import Project

SCHEMAS = {
    "prompts": schemas.PROMPTS,
    "rollouts": schemas.ROLLOUTS,
    "forks": schemas.FORKS,
    "answers": schemas.ANSWERS,
    "scores": schemas.SCORES,
    "targets": schemas.TARGETS,
    "evals": schemas.EVALS,
}
Damage = Callable[[Place, Path], str]


def flip(place: Place, path: Path) -> str:
    """Flip one bit of a file; says which."""
    data = bytearray(path.read_bytes())
    offset, bit = place.draw.randrange(len(data)), place.draw.randrange(8)
    data[offset] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}: bit {bit} of byte {offset} of {len(data)} flipped"


def cut_off(place: Place, path: Path) -> str:
    """Remove the end of a file."""
    size = path.stat().st_size
    left = place.draw.randrange(size)
    os.truncate(path, left)
    return f"{path.name}: {left} of {size} bytes left"


def zeroed(place: Place, path: Path) -> str:
    """Zero a stretch of a file, as a file system that lost a block does."""
    data = bytearray(path.read_bytes())
    start = place.draw.randrange(len(data))
    length = min(place.draw.choice([16, 512, 4096]), len(data) - start)
    if not any(data[start : start + length]):
        data[start] ^= 0xFF  # it was zero before
    else:
        data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return f"{path.name}: {length} bytes from {start} of {len(data)} are zero"


def finished() -> Project:
    found = stages.SHARED["project"]
    assert isinstance(found, Project)
    return found


def table(place: Place, name: str, damage: Damage) -> Outcome:
    """A damaged table reads equal to the whole one, or is refused."""
    source = sorted((finished().folder / "data").glob(f"*/*/{name}.parquet"))[0]
    path = place.folder / source.name
    shutil.copyfile(source, path)
    whole = tables.read(path, SCHEMAS[name])
    where = damage(place, path)
    try:
        found = tables.read(path, SCHEMAS[name])
    except UserError:
        return Outcome()
    if found.equals(whole):
        return Outcome()
    return Outcome(silent=1, told=[f"{where}, and other values were read"])


for _name in SCHEMAS:
    kind(f"flip-{_name}", 40, flip=True)(functools.partial(table, name=_name, damage=flip))
    kind(f"cut-off-{_name}", 20)(functools.partial(table, name=_name, damage=cut_off))
    kind(f"zeroed-{_name}", 20)(functools.partial(table, name=_name, damage=zeroed))


# the store's file


@kind("flip-store", 60, flip=True)
def _(place: Place) -> Outcome:
    """A bit flips in the store's file: its answers are refused, or are what was stored.

    Those that are not found count as lost only where they may be bought again.
    """
    path = place.folder / "judgments.sqlite"
    names = [f"prompt {n}" for n in range(40)]
    stored = [answer(name, text=f"answer to {name} of a teacher") for name in names]
    with Store(f"sqlite:///{path}") as store:
        store.add(stored)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    where = flip(place, path)
    wanted = {found.key: found for found in stored}
    try:
        with Store(f"sqlite:///{path}") as store:
            found = list(store.find(all_asked(names), 8))
            wrong = [one for one in found if one != wanted[one.key]]
            if wrong:
                return Outcome(silent=len(wrong), told=[f"{where}: {len(wrong)} read as others"])
            hidden = set(wanted) - {one.key for one in found}
            lost = len(store.claims.claim(all_asked(names), 8)) if hidden else 0
    except UserError:
        return Outcome()
    return Outcome(lost=lost, told=[f"{where}: {lost} to be bought again"] if lost else [])


# disks that are full


def write_limited(path: str, limit: int, results) -> None:
    """Write a table where no file may grow over `limit` bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    source = tables.read(Path(path), schemas.ROLLOUTS)
    many = pa.concat_tables([source] * 50)
    try:
        tables.write(many, path, schemas.ROLLOUTS)
        results.put("written")
    except UserError as error:
        results.put(str(error))


@kind("full-disk-table", 20)
def _(place: Place) -> Outcome:
    """A table that cannot be written leaves the one that was there."""
    source = sorted((finished().folder / "data").glob("*/*/rollouts.parquet"))[0]
    path = place.folder / source.name
    shutil.copyfile(source, path)
    before = path.read_bytes()
    results = FORKED.SimpleQueue()
    limit = place.draw.randrange(0, 20_000)
    process = FORKED.Process(target=write_limited, args=(str(path), limit, results))
    process.start()
    process.join(HANG_SECONDS)
    if process.is_alive():
        process.kill()
        return Outcome(hangs=1, told=["writing to a full disk did not end"])
    said = "nothing" if results.empty() else results.get()
    if said == "written":
        return Outcome()
    left = sorted(found.name for found in place.folder.iterdir())
    if path.read_bytes() == before and left == [path.name] and "Free space" in said:
        return Outcome()
    return Outcome(silent=1, told=[f"limit {limit}: {said}; left {left}"])
