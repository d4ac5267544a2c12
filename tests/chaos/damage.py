"""Bits that flip in files: what is read afterwards is refused by name, or is what was written."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline import tables
from pipeline.errors import UserError
from tests.chaos import stages
from tests.chaos.counted import Outcome, Place, kind
from tests.project import Project

SCHEMAS = {
    "prompts": tables.PROMPTS,
    "rollouts": tables.ROLLOUTS,
    "forks": tables.FORKS,
    "answers": tables.ANSWERS,
    "scores": tables.SCORES,
    "targets": tables.TARGETS,
    "evals": tables.EVALS,
}


def flip(place: Place, path: Path) -> str:
    """Flip one bit of a file; says which."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    offset, bit = place.draw.randrange(len(data)), place.draw.randrange(8)
    data[offset] ^= 1 << bit
    path.write_bytes(data)
    return f"{path.name}: bit {bit} of byte {offset} of {len(data)}"


def flipped(
    place: Place,
    path: Path,
    read: Callable[[Path], object],
    equal: Callable[[object, object], bool],
) -> Outcome:
    """Flip a bit in a copy of a file: it reads equal to the whole one, or is refused."""
    copy = place.folder / path.name
    shutil.copyfile(path, copy)
    whole = read(copy)
    where = flip(place, copy)
    try:
        found = read(copy)
    except UserError:
        return Outcome()
    if equal(found, whole):
        return Outcome()
    return Outcome(silent=1, told=[f"{where} was read as other values"])


def table(place: Place, name: str) -> Outcome:
    project = stages.SHARED["project"]
    assert isinstance(project, Project)
    path = sorted((project.folder / "data").glob(f"*/*/{name}.parquet"))[0]
    schema = SCHEMAS[name]
    return flipped(place, path, lambda p: tables.read(p, schema), pa.Table.equals)


for _name in SCHEMAS:
    kind(f"flip-{_name}", 40, flip=True)(functools.partial(table, name=_name))
