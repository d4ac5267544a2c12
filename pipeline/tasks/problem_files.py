"""Rows that somebody else wrote: of a file or folder (pipeline/data/row_files.py), or of a hub."""

import importlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.problems import ProblemSet, RowsPrepare
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data import row_files
from pipeline.data.content_hash import sha256
from pipeline.tasks import Problem, contamination

log = logging.getLogger("omniopd")


class Row(NamedTuple):
    where: str  # file and line, for messages
    values: dict[str, Any]
    remedy: str = "Correct the row."

    def first(self, *names: str) -> Any:
        """The first of `names` that the row has and that is not null. Raises UserError."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        raise UserError(
            f"{self.where}: found the fields {sorted(self.values)}, wanted "
            f"{' or '.join(map(repr, names))}. {self.remedy}"
        )

    def text(self, *names: str) -> str:
        """The first of these fields as text that is not empty; numbers are written out."""
        found = self.first(*names)
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
            return str(found)
        if isinstance(found, str) and found.strip():
            return found
        raise self.wrong(names, found, "text")

    def wrong(self, names: tuple[str, ...], found: Any, wanted: str) -> UserError:
        """The error to raise where a field's value is not what it must be."""
        shown = repr(found)[:80]
        named = " or ".join(name for name in names if self.values.get(name) is not None)
        return UserError(f"{self.where}: {named}: found {shown}, wanted {wanted}. Correct the row.")


class Pooled(NamedTuple):
    """A problem that may be drawn, with what it shares with another that is the same."""

    where: str
    problem: Problem
    keys: frozenset[str]  # contamination.keys


def draw(
    p: RowsPrepare,
    problem: Callable[[str, Row], Problem],
    equal: Callable[[str, str], bool],
    dropped: Counter[str],
) -> Iterator[Problem]:
    """Problems of test, then dev, then train: a seeded shuffle of the sets that serve the split.

    All different, over the splits as well, so that no set's repeats train on what tests.
    `problem` gets a set's name and a row, `equal` tells whether two golds are one answer, `dropped`
    counts what was left out (`pick`). Raises UserError where there are too few, or where one set
    has a problem twice with unequal golds.
    """
    pools: dict[str, list[Pooled]] = {}
    for name, source in p.sets.items():
        pools[name] = [pooled(x.where, problem(name, x)) for x in read(source, p.folder)]
        for one, other in unequal(pools[name], equal):
            raise UserError(
                f"prepare.sets.{name}: {_both(one, other)}, wanted one answer to one problem (they "
                "differ in blanks, case, a heading or punctuation alone). Correct or remove a row."
            )
    everything = [x for pool in pools.values() for x in pool]
    for one, other in unequal(everything, equal):
        dropped["unequal_golds"] += 1
        log.warning(f"prepare: two sets disagree: {_both(one, other)}. Correct one of them.")
    taken: dict[str, str] = {}
    for split, count in (("test", p.test), ("dev", p.dev), ("train", p.train)):
        serving = [name for name, source in p.sets.items() if split in source.splits]
        pool = [x for name in serving for x in pools[name]]
        yield from pick(pool, p.seed, split, count, taken, dropped)


def pooled(where: str, found: Problem) -> Pooled:
    return Pooled(where, found, contamination.keys(found.messages, found.prompt))


def unequal(pool: list[Pooled], equal: Callable[[str, str], bool]) -> Iterator[tuple[Pooled, ...]]:
    """Each problem that an earlier one of the pool is, with that one, if their golds differ."""
    first: dict[str, Pooled] = {}
    for x in pool:
        for name in x.keys:
            other = first.setdefault(name, x)
            if other.problem.answer != x.problem.answer and not equal(
                other.problem.answer, x.problem.answer
            ):
                yield other, x


def _both(one: Pooled, other: Pooled) -> str:
    golds = " and ".join(f"{x.problem.answer[:60]!r} ({x.where})" for x in (one, other))
    return f"the problem {other.problem.prompt[:60]!r} has the golds {golds}"


def pick(
    pool: list[Pooled],
    seed: int,
    split: str,
    count: int,
    taken: dict[str, str],
    dropped: Counter[str],
    exact: bool = False,
) -> Iterator[Problem]:
    """`count` problems of `pool` in a shuffled order; `taken` gets their keys and rows.

    What another split has taken is left out, and what the pool repeats: `dropped` gets how many
    rows of either kind, `leaks_SPLIT` and `repeats_SPLIT`. With `exact`, two of one split are one
    only if their texts are equal. Raises UserError where fewer are left.
    """
    fresh: dict[str, Pooled] = {}
    same = set[str]()
    leaks = repeats = 0
    for x in pool:
        if owners := {taken[name] for name in x.keys if name in taken}:
            leaks += x.where not in owners  # else it is itself what was drawn
        elif x.problem.prompt in fresh or not (exact or same.isdisjoint(x.keys)):
            repeats += 1
        else:
            fresh[x.problem.prompt] = x
            same |= x.keys
    counts = {f"leaks_{split}": leaks, f"repeats_{split}": repeats}
    dropped.update({name: found for name, found in counts.items() if found and count})
    if len(fresh) < count:
        raise UserError(
            f"prepare.{split}: found {count}, wanted at most {len(fresh)}: so many different "
            f"problems are left for it in what prepare names ({leaks} rows are problems of another "
            f"split, {repeats} repeat others). Ask for fewer, or add a set."
        )
    prompts = list(fresh)  # in the order of the files, whatever repeats
    order = seeds.generator("rows", seed, split).permutation(len(prompts))
    for index in order[:count]:
        found = fresh[prompts[index]]
        taken.update(dict.fromkeys(found.keys, found.where))
        yield found.problem


def read(source: ProblemSet, folder: str | None) -> Iterator[Row]:
    """The rows of a set, in its own order. Raises UserError."""
    remedy = "Correct the row."
    if "prompt" in type(source).model_fields:
        remedy = "Correct the row, or name the set's fields: prompt and answer, without format."
    if source.hub is not None:
        return (x._replace(remedy=remedy) for x in _hub(source))
    assert source.file is not None  # a ProblemSet has one of the two
    rows = file(Path(folder or ".") / source.file, source.sha256)
    return (x._replace(remedy=remedy) for x in rows)


def file(path: Path, wanted_sha256: str | None = None) -> Iterator[Row]:
    """The rows of a file or folder by its kind (pipeline/data/row_files.py). Raises UserError."""
    sha256(str(path), wanted_sha256)
    return _rows(path, row_files.files(path))


def _rows(path: Path, files: list[Path]) -> Iterator[Row]:
    any_row = False
    for one in files:
        for where, values in row_files.reader(one)(one):
            any_row = True
            yield Row(where, values)
    if not any_row:
        raise UserError(
            f"{path}: found no row, wanted rollouts, prompts or problems. Write it again."
        )


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
        rows = datasets.load_dataset(
            source.hub, source.config, split=source.hub_split, revision=source.revision
        )
    except (OSError, ValueError) as error:  # not found, no network, no such config or split
        raise UserError(f"{where}: {error}. Correct hub, config, hub_split, revision.") from error
    for number, values in enumerate(rows, 1):
        yield Row(f"{where}, row {number}", dict(values))
