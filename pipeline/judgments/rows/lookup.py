"""One query for the answers at many places, in each database's own words.

An object that stands for the query would take longer to be rendered than the answers to be read.
"""

import functools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.judgments.schema import ANSWERS, SAMPLE_BITS

Wanted = tuple[int, bytes, int, int]  # any number to know it by, prompt, first_seed, sample
_JOINED = (
    "JOIN prefixes p ON p.settings = {p} AND p.prompt = w.prompt AND p.attempt = {p} "
    "AND p.first_seed = w.first_seed AND p.token_limit >= {p} "
    f"JOIN answers a ON a.id = ((p.id << {SAMPLE_BITS}) | w.sample)"
)
ROW = ", ".join(f"a.{column.name}" for column in ANSWERS.columns)
FOUND = f"w.n, p.token_limit, {ROW}"  # columns of what `serving` finds


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
    rows = ",".join(["(?,?,?,?)"] * count)
    joined = _JOINED.format(p="?")
    # CROSS: as they are written, from what is wanted to its rows
    joined = joined.replace("JOIN", "CROSS JOIN")
    return (
        f"WITH w(n, prompt, first_seed, sample) AS (VALUES {rows}) SELECT {columns} FROM w {joined}"
    )


@functools.cache
def postgres(columns: str) -> str:
    return (
        f"SELECT {columns} FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::int[]) "
        f"AS w(n, prompt, first_seed, sample) {_JOINED.format(p='%s')}"
    )
