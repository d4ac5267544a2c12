"""One query for the answers at many places, in each database's own words.

From what is wanted to its prefix by the index, and from there to the answer by its id: both
databases are told this order, as neither needs to know how many rows there are to find it. An
object that stands for the query would take longer to be rendered than the answers to be read.
"""

import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.judgments.schema import ANSWERS, SAMPLE_BITS

Wanted = tuple[int, bytes, int, int]  # any number to know it by, prompt, first_seed, sample
ROW = ", ".join(f"a.{column.name}" for column in ANSWERS.columns)
FOUND = f"w.n, p.token_limit, {ROW}"  # columns of what `serving` finds
_PREFIX = (
    "p.settings = {mark} AND p.prompt = w.prompt AND p.attempt = {mark} "
    "AND p.first_seed = w.first_seed AND p.token_limit >= {mark}"
)
_ANSWER = f"a.id = ((p.id << {SAMPLE_BITS}) | w.sample)"


def serving(
    connection: sa.Connection,
    settings: int,
    attempt: int,
    limit: int,
    wanted: Sequence[Wanted],
    columns: str = FOUND,
) -> Sequence[Sequence[Any]]:
    """Answers that serve `limit` tokens at these places, of whichever limit, in any order."""
    rest = (settings, attempt, limit)
    if connection.dialect.name == "sqlite":
        flat = tuple(value for one in wanted for value in one)
        text = sqlite(len(wanted), columns)
        return connection.exec_driver_sql(text, (*flat, *rest)).all()
    lists = tuple(list(column) for column in zip(*wanted, strict=True))
    return connection.exec_driver_sql(postgres(columns), (*lists, *rest)).all()


@functools.lru_cache(maxsize=64)
def sqlite(count: int, columns: str) -> str:
    """The query for so many places: four parameters each, then settings, attempt and limit."""
    rows = ",".join(["(?,?,?,?)"] * count)
    return (  # CROSS: in the order in which they stand
        f"WITH w(n, prompt, first_seed, sample) AS (VALUES {rows}) SELECT {columns} FROM w "
        f"CROSS JOIN prefixes p ON {_PREFIX.format(mark='?')} CROSS JOIN answers a ON {_ANSWER}"
    )


@functools.cache
def postgres(columns: str) -> str:
    """The query: a list for each of the four, then settings, attempt and limit."""
    return (  # OFFSET 0: each is a query of its own for each row before it
        f"SELECT {columns} FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::int[]) "
        "AS w(n, prompt, first_seed, sample), LATERAL (SELECT p.id, p.token_limit FROM prefixes p "
        f"WHERE {_PREFIX.format(mark='%s')} OFFSET 0) p, "
        f"LATERAL (SELECT * FROM answers a WHERE {_ANSWER} OFFSET 0) a"
    )
