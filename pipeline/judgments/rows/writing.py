"""Answers written into an open store, each once: the first writer wins."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from pipeline.judgments.database import Refused
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.rows import packed, places
from pipeline.judgments.rows.named import Outcome
from pipeline.judgments.rows.reading import WRONG, Reader
from pipeline.judgments.schema import ANSWERS, PLACE, PREFIXES, SAMPLE_BITS, Judgment

_VALUES = [column.name for column in ANSWERS.columns][1:]
_Prefix = tuple[int, bytes, int, int, int]  # PLACE


class Ready(NamedTuple):
    """An answer that is packed."""

    prefix: _Prefix
    sample: int
    values: tuple[Any, ...]  # the columns of its row but for the id


class Writer:
    """Writes answers. `ready` packs them before a transaction begins, `insert` is within one."""

    def __init__(self, database: OpenDatabase, reader: Reader) -> None:
        self._name, self._reader = database.name, reader
        insert = database.insert(PREFIXES)
        more = {"answers": PREFIXES.c.answers + insert.excluded.answers}
        upsert = insert.on_conflict_do_update(index_elements=list(PLACE), set_=more)
        columns = (PREFIXES.c[name] for name in (*PLACE, "id", "answers"))
        self._upsert: Any = upsert.returning(*columns)
        self._insert = ANSWERS.insert()

    def ready(self, judgments: Iterable[Judgment]) -> list[Ready]:
        """Packed, in the order in which they lie. Raises UserError; Refused for one that the
        tables cannot hold, or whose key is not that of its request."""
        found = []
        pack = _packer(self._reader)
        for judgment in judgments:
            try:
                found.append(pack(judgment))
            except (*WRONG, AttributeError, OverflowError) as error:
                raise Refused(
                    f"judgments at {self._name}: the answer {str(judgment.key)[:12]} breaks the "
                    f"table's rules ({error}). Nothing of its reply was stored. Please report "
                    "this: it is a mistake in the program."
                ) from error
        return sorted(found, key=lambda one: (one.prefix, one.sample))

    def insert(self, connection: sa.Connection, ready: Sequence[Ready]) -> int:
        """Store those that are not there yet, in a transaction; returns how many these were.

        Each prefix is locked first, in one order, so that of two writers one waits.
        """
        unique = {(one.prefix, one.sample): one.values for one in reversed(ready)}
        wanted = Counter(prefix for prefix, _ in unique)
        if not wanted:
            return 0
        rows = [
            dict(zip((*PLACE, "answers"), (*prefix, n), strict=True))
            for prefix, n in sorted(wanted.items())
        ]
        found = connection.execute(self._upsert, rows if len(rows) > 1 else rows[0]).all()
        ids = {tuple(row[: len(PLACE)]): row.id for row in found}
        # a prefix that is as long as what is added to it was empty
        older = {tuple(row[:-2]) for row in found if row.answers != wanted[tuple(row[:-2])]}
        placed = {
            places.answer_id(ids[prefix], sample): (prefix, sample) for prefix, sample in unique
        }
        there = self._there(connection, [i for i, (prefix, _) in placed.items() if prefix in older])
        new = [
            dict(zip(_VALUES, unique[at], strict=True)) | {"id": i}
            for i, at in sorted(placed.items())
            if i not in there
        ]
        if new:
            connection.execute(self._insert, new)
        for prefix, n in Counter(ids[placed[i][0]] for i in there).items():
            less = PREFIXES.update().where(PREFIXES.c.id == prefix)
            connection.execute(less.values(answers=PREFIXES.c.answers - n))
        return len(new)

    def _there(self, connection: sa.Connection, ids: Sequence[int]) -> set[int]:
        if not ids:
            return set()
        query = sa.select(ANSWERS.c.id).where(ANSWERS.c.id.in_(sorted(ids)))
        return set(connection.execute(query).scalars())


def counted() -> sa.Select[Any]:
    """Prefixes that say another number of answers than they have, and how many that is."""
    first = PREFIXES.c.id.op("<<", return_type=sa.BigInteger())(sa.literal_column(str(SAMPLE_BITS)))
    here = ANSWERS.c.id.between(first, first + (places.SAMPLES - 1))
    # for each by itself: SQLite joins what is grouped without an index
    n = sa.select(sa.func.count()).where(here).correlate(PREFIXES).scalar_subquery()
    return sa.select(PREFIXES.c.id, n.label("n")).where(PREFIXES.c.answers != n)


def miscounted(connection: sa.Connection) -> list[int]:
    """Prefixes that have another number of answers than was stored. One statement, so that it sees
    one state of a store that is written to."""
    return list(connection.execute(counted().order_by(PREFIXES.c.id)).scalars())


def _packer(reader: Reader) -> Callable[[Judgment], Ready]:
    """What packs an answer; settings, outcomes and keys of neighbours are mostly the same."""
    last: tuple[Any, ...] = ()
    number, keys = -1, None

    def pack(one: Judgment) -> Ready:
        nonlocal last, number, keys
        what = (one.provider, one.model, one.continuation, one.sampler, one.epoch, one.prompt)
        if keys is None or (*what, one.attempt) != last:
            asked = places.settings_of(one)
            number = reader.settings.number(asked)
            keys = places.Keys(asked, packed.prompt(one.prompt), one.attempt)
            last = (*what, one.attempt)
        if keys.key(one.sample, one.seed) != one.key:
            raise ValueError("its key is not the hash of its request")
        how = Outcome(
            one.ended, one.finish_reason, one.model_returned, one.failure, one.requested_n
        )
        place = places.place(number, one)
        places.answer_id(0, one.sample)  # or it raises
        values = (
            reader.outcomes.number(how),
            one.prompt_tokens,
            one.completion_tokens,
            one.seed_sent,
            float(one.usd),
            float(one.created_at),
            packed.text(one.text),
            packed.ids(one.token_ids),
        )
        sum_ = packed.checksum(one.key, one.token_limit, (0, *values, b""))
        return Ready((*place, one.token_limit), one.sample, (*values, sum_))

    return pack
