"""Rows that somebody else wrote: of a file or folder (pipeline/row_files.py), or of a hub."""

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import row_files, seeds
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
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
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
    """The rows of a file or folder by its kind (pipeline/row_files.py). Raises UserError."""
    sha256(str(path), wanted_sha256)
    return _rows(path, row_files.files(path))


def _rows(path: Path, files: list[Path]) -> Iterator[Row]:
    found = False
    for one in files:
        for where, values in row_files.reader(one)(one):
            found = True
            yield Row(where, values)
    if not found:
        raise UserError(f"{path}: found no row, wanted rollouts, prompts or problems. Is it whole?")


@functools.cache
def sha256(path: str, wanted: str | None = None) -> str:
    """Hash of the content of a file or folder. Raises UserError where it is not `wanted`."""
    found = row_files.sha256(Path(path))
    if wanted not in (None, found):
        raise UserError(
            f"{path}: its content has the hash {found}, wanted {wanted}. If the file has changed "
            "on purpose, run `omniopd plan` (and take sha256 out of params.yaml)."
        )
    return found


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
