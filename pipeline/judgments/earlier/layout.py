"""The tables of version 2 that are others today: a row for each answer, its key as text."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.judgments import sums
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.schema import Judgment

LEDGER, LEDGER_INDEX = "ledger", "ix_ledger_project"  # is `entries` today


class Verbatim(sa.TypeDecorator[str]):
    """Any text. Postgres refuses NUL, which models do write, so there it is escaped."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None or dialect.name != "postgresql":
            return value
        return value.replace("\\", "\\\\").replace("\x00", "\\0")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is None or dialect.name != "postgresql" or "\\" not in value:
            return value
        return "\\".join(part.replace("\\0", "\x00") for part in value.split("\\\\"))


METADATA = sa.MetaData()
JUDGMENTS = sa.Table(
    "judgments",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("token_limit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt", sa.String(64), nullable=False),
    sa.Column("continuation", sa.Text, nullable=False),
    sa.Column("sampler", sa.Text, nullable=False),  # JSON
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("text", Verbatim, nullable=False),
    sa.Column("token_ids", sa.Text),  # JSON list
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.String(16), nullable=False),
    sa.Column("model_returned", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("requested_n", sa.Integer, nullable=False),
    sa.Column("seed_sent", sa.BigInteger),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False),
)
# Of SQLite in the order in which rows came: what an older version adds meanwhile comes last
ROWID = sa.literal_column("judgments.rowid", sa.Integer)
KEYS = (JUDGMENTS.c.key, JUDGMENTS.c.token_limit)
Cursor = tuple[Any, ...]  # the last row that was read: its rowid, or its key and limit


def start(dialect: str) -> Cursor:
    """Before the first row."""
    return (-(2**63),) if dialect == "sqlite" else ("", 0)


def batch(dialect: str, after: Cursor, size: int) -> sa.Select[Any]:
    """Rows behind a place in the table, each with its own place before its columns."""
    order = [ROWID] if dialect == "sqlite" else list(KEYS)
    query = sa.select(*order, JUDGMENTS).order_by(*order).limit(size)
    return query.where(sa.tuple_(*order) > after)


def stream(database: OpenDatabase, size: int) -> Iterator[list[tuple[Cursor, tuple[Any, ...]]]]:
    """All rows with their places, a batch at a time; nothing is checked."""
    after = start(database.dialect)
    while rows := database.rows(batch(database.dialect, after, size)):
        found = [parted(database.dialect, row) for row in rows]
        after = found[-1][0]
        yield found


def parted(dialect: str, row: Sequence[Any]) -> tuple[Cursor, tuple[Any, ...]]:
    """A row's place and its columns."""
    width = 1 if dialect == "sqlite" else len(KEYS)
    return tuple(row[:width]), tuple(row[width:])


def judgment(row: Sequence[Any]) -> Judgment:
    """The answer in a row of all columns. Raises ValueError or TypeError saying what is wrong."""
    *values, kept = row
    try:
        ids = None if values[sums.IDS] is None else tuple(json.loads(values[sums.IDS]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"its token_ids are no JSON list ({error})") from error
    found = Judgment._make([*values[: sums.IDS], ids, *values[sums.IDS + 1 :]])
    # as it lies there first, which is fast; then by its meaning, whatever blanks its lists have
    if not sums.fits(values, kept) and (why := sums.wrong(found, str(kept))):
        raise ValueError(why)
    if not sums.keyed(found):
        raise ValueError(sums.UNKEYED)
    return found


def repaired(row: Sequence[Any]) -> Judgment | None:
    """The answer of a damaged row, where its checksum proves which bit was flipped."""
    place = sums.flipped(row[:-1], row[-1])
    if place is None:
        return None
    try:
        return judgment([*row[: place[0]], place[1], *row[place[0] + 1 :]])
    except (ValueError, TypeError):
        return None
