"""Rows of problems that somebody else wrote: JSON lines, JSON, Parquet, or a dataset on a hub."""

import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import seeds
from pipeline.errors import UserError
from pipeline.params import ProblemSet, RowsPrepare
from pipeline.tasks import Problem


class Row(NamedTuple):
    where: str  # file and line, for messages
    values: dict[str, Any]

    def first(self, *names: str) -> Any:
        """The first of `names` that the row has and that is not null. Raises UserError."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise UserError(
            f"{self.where}: found the fields {sorted(self.values)}, wanted "
            f"{' or '.join(map(repr, names))}. Correct the row, or name your own fields in params."
        )

    def text(self, *names: str) -> str:
        """Likewise, as text that is not empty; numbers are written out."""
        found = self.first(*names)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return str(found)
        if isinstance(found, str) and found.strip():
            return found
        raise self.wrong(names, found, "text")

    def wrong(self, names: tuple[str, ...], found: Any, wanted: str) -> UserError:
        """For the caller to raise: a field's value is not what it must be."""
        shown = repr(found)[:80]
        named = " or ".join(name for name in names if self.values.get(name) is not None)
        return UserError(f"{self.where}: {named}: found {shown}, wanted {wanted}. Correct the row.")


def draw(p: RowsPrepare, problem: Callable[[str, Row], Problem]) -> Iterator[Problem]:
    """Problems of test, then dev, then train: a seeded shuffle of the sets that serve the split.

    All different, over the splits as well, so that no set's repeats train on what tests.
    `problem` gets a set's name and a row. Raises UserError where there are too few.
    """
    pools = {
        name: [problem(name, row) for row in read(found, p.folder)]
        for name, found in p.sets.items()
    }
    taken = set[str]()
    for split, count in (("test", p.test), ("dev", p.dev), ("train", p.train)):
        serving = [name for name, found in p.sets.items() if split in found.splits]
        yield from pick([x for name in serving for x in pools[name]], p.seed, split, count, taken)


def pick(
    pool: list[Problem], seed: int, split: str, count: int, taken: set[str]
) -> Iterator[Problem]:
    """`count` problems of `pool` in a shuffled order; their prompts are added to `taken`."""
    fresh = {x.prompt: x for x in reversed(pool) if x.prompt not in taken}
    if len(fresh) < count:
        raise UserError(
            f"prepare.{split}: found {count}, wanted at most {len(fresh)}: so many different "
            "problems are left for it in what prepare names. Ask for fewer, or add a set."
        )
    prompts = [x.prompt for x in pool if x.prompt in fresh]
    prompts = list(dict.fromkeys(prompts))  # in the order of the files, whatever repeats
    order = seeds.generator("rows", seed, split).permutation(len(prompts))
    for index in order[:count]:
        taken.add(prompts[index])
        yield fresh[prompts[index]]


def read(source: ProblemSet, folder: str | None) -> Iterator[Row]:
    """The rows of a set, in its own order. Raises UserError."""
    if source.hub is not None:
        return _hub(source)
    assert source.file is not None  # a ProblemSet has one of the two
    return file(Path(folder or ".") / source.file, source.sha256)


def file(path: Path, wanted_sha256: str | None = None) -> Iterator[Row]:
    """The rows of a file by its suffix. Raises UserError."""
    sha256(str(path), wanted_sha256)
    match path.suffix:
        case ".parquet":
            return _parquet(path)
        case ".jsonl":
            return _json_lines(path)
        case ".json":
            return _json(path)
    raise UserError(f"{path}: found {path.suffix!r}, wanted .jsonl, .json or .parquet. Rename it.")


@functools.cache
def sha256(path: str, wanted: str | None = None) -> str:
    """Hash of a file's content. Raises UserError where it is not `wanted`."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file. Correct prepare in params.yaml, or put it there.")
    with open(path, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if wanted not in (None, found):
        raise UserError(
            f"{path}: its content has the hash {found}, wanted {wanted}. If the file has changed "
            "on purpose, run `omniopd plan` (and take sha256 out of params.yaml)."
        )
    return found


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="strict") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(f"{path}, line {number}", line)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error}). Save it as UTF-8.") from error


def _row(where: str, line: str) -> Row:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error}). Wanted one object a line.") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: found {type(found).__name__}, wanted an object with fields.")
    return Row(where, found)


def _json(path: Path) -> Iterator[Row]:
    """An array of objects, or, as hubs name such files too, an object a line."""
    text = path.read_text(encoding="utf-8")
    if not text.lstrip().startswith("["):
        yield from _json_lines(path)
        return
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}). Correct it.") from error
    for number, row in enumerate(found, 1):
        yield _row(f"{path}, entry {number}", json.dumps(row))


def _parquet(path: Path) -> Iterator[Row]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", values)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error}). Download it again.") from error


def _hub(source: ProblemSet) -> Iterator[Row]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            f"prepare: hub {source.hub!r} needs the package datasets: `pip install datasets`. "
            "Or download the file and name it with `file`."
        ) from error
    where = f"hub {source.hub} at {source.revision}"
    try:
        found = datasets.load_dataset(
            source.hub, source.config, split=source.hub_split, revision=source.revision
        )
    except (OSError, ValueError) as error:  # not found, no network, no such config or split
        raise UserError(f"{where}: {error}. Correct hub, config, hub_split, revision.") from error
    for number, values in enumerate(found, 1):
        yield Row(f"{where}, row {number}", dict(values))
