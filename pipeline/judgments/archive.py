"""A judgment store handed on: to Parquet and back, merged, verified, tidied.

What is read is checked row by row before anything of it is written: the key must be the hash of
the request's columns and the checksum that of the answer's.
"""

import math
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.data import tables
from pipeline.data.schemas import column
from pipeline.judgments import database
from pipeline.judgments.claims.claims import lapsed
from pipeline.judgments.retries import DAMAGED, RESTORE
from pipeline.judgments.schema import (
    BATCHES,
    CLAIMS,
    JUDGMENTS,
    UNKEYED,
    Judgment,
    keyed,
    to_row,
    wrong,
)
from pipeline.judgments.store import Store

BATCH_DAYS = 30  # providers keep the results of a batch for 29 days at most
SCHEMA = pa.schema(
    [
        column("key", pa.string()),
        column("token_limit", pa.int32()),
        column("provider", pa.string()),
        column("model", pa.string()),
        column("prompt", pa.string()),  # SHA-256
        column("continuation", pa.string()),
        column("sampler", pa.string()),  # JSON
        column("sample", pa.int32()),
        column("seed", pa.int64(), nullable=True),
        column("attempt", pa.int32()),
        column("epoch", pa.int32()),
        column("text", pa.string()),
        column("token_ids", pa.list_(pa.int32()), nullable=True),
        column("ended", pa.bool_()),
        column("finish_reason", pa.string()),
        column("model_returned", pa.string()),
        column("prompt_tokens", pa.int32()),
        column("completion_tokens", pa.int32()),
        column("failure", pa.string(), nullable=True),
        column("requested_n", pa.int32()),
        column("seed_sent", pa.int64(), nullable=True),
        column("usd", pa.float64()),
        column("created_at", pa.float64()),  # seconds since 1970, UTC
        column("checksum", pa.string()),
    ]
)


Rows = Iterator[list[tuple[Judgment, str]]]  # answers with the checksums stored beside them


@dataclass(frozen=True)
class Moved:
    """Counts of what came into a store."""

    read: int
    new: int


@dataclass(frozen=True)
class Removed:
    """Counts of what was removed."""

    claims: int
    batches: int


def export(store: Store, path: Path, without: Collection[str] = ()) -> int:
    """Write every answer, but for those of some providers, to Parquet; returns how many.

    In the order of the keys, so that equal stores give equal files. Raises UserError naming the
    first damaged row, and writes nothing.
    """
    count = 0
    where = [JUDGMENTS.c.provider.not_in(sorted(without))] if without else []
    with tables.writer(path, SCHEMA) as out:
        rows = _checked(store.stream(*where), store.name, DAMAGED)
        for chunk in tqdm(rows, desc="export", unit="chunk", disable=None):
            records = [to_row(found) | {"token_ids": found.token_ids} for found, _ in chunk]
            out.write_table(pa.Table.from_pylist(records, schema=SCHEMA))
            count += len(records)
    return count


def import_(store: Store, path: Path) -> Moved:
    """Add the answers of a Parquet file that the store lacks; the rest stays as it is.

    Raises UserError naming the first damaged row, before anything is stored.
    """
    check(_from_parquet(path), str(path))
    return _add(store, _from_parquet(path))


def source(url: str) -> Store:
    """A store to merge from. Raises UserError where there is none: opening would make a new one."""
    try:
        parsed = database.parse(url)
    except UserError as error:  # it names the variable of the other store
        raise UserError(
            "merge: its argument is no URL of a store, wanted sqlite:////folder/judgments.sqlite "
            "or postgresql://user@host/database. Write it so."
        ) from error
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise UserError(
            f"{database.name(parsed)}: no such file. Give the URL of a store, such as "
            "sqlite:////folder/judgments.sqlite."
        )
    return Store(url)


def merge(store: Store, other: Store) -> Moved:
    """Add the answers of another store that this one lacks."""
    verify(other)
    return _add(store, other.stream())


def verify(store: Store) -> int:
    """Check the database and every row; returns how many. Raises UserError naming the damage."""
    if why := store.database.integrity():
        raise UserError(f"{store.name}: the file is damaged: {why}. {DAMAGED}")
    return check(store.stream(), store.name, DAMAGED)


def gc(store: Store) -> Removed:
    """Remove lapsed claims and batches whose results are gone, reclaim space. Answers stay."""
    now = time.time()
    with store.database.writing() as connection:
        old = CLAIMS.delete().where(lapsed(database.now(connection)))
        gone = BATCHES.delete().where(BATCHES.c.created_at < now - BATCH_DAYS * 24 * 3600)
        removed = Removed(connection.execute(old).rowcount, connection.execute(gone).rowcount)
    with store.database.reading() as connection:
        if connection.dialect.name == "sqlite":  # Postgres does it by itself
            connection.exec_driver_sql("COMMIT")  # VACUUM is refused inside a transaction
            connection.exec_driver_sql("VACUUM")
    return removed


def check(rows: Rows, name: str, remedy: str = RESTORE) -> int:
    """Count the rows. Raises UserError for one that is not what its hashes say."""
    found = tqdm(_checked(rows, name, remedy), desc="verify", unit="chunk", disable=None)
    return sum(len(chunk) for chunk in found)


def _checked(rows: Rows, name: str, remedy: str = RESTORE) -> Rows:
    for chunk in rows:
        for found, kept in chunk:
            if why := fault(found, kept):
                raise UserError(
                    f"{name}: the answer {found.key[:12]} of {found.provider} {found.model} is "
                    f"damaged: {why}. {remedy}"
                )
        yield chunk


def fault(found: Judgment, kept: str) -> str | None:
    """The fault of an answer, or None. It checks more than a look-up, which has the key itself."""
    if not (math.isfinite(found.usd) and math.isfinite(found.created_at)):
        return "its price or its time is not a number"
    if why := wrong(found, kept):
        return why
    if not keyed(found):
        return UNKEYED
    if found.finish_reason != ("stop" if found.ended else "length"):
        return "its finish reason contradicts its end"
    return None


def _from_parquet(path: Path) -> Rows:
    for group in tables.stream(path, SCHEMA):
        yield [_judgment(row) for row in group.to_pylist()]


def _judgment(row: dict[str, Any]) -> tuple[Judgment, str]:
    stored, ids = row.pop("checksum"), row.pop("token_ids")
    return Judgment(**row, token_ids=None if ids is None else tuple(ids)), stored


def _add(store: Store, rows: Rows) -> Moved:
    read = new = 0
    for chunk in tqdm(rows, desc="import", unit="chunk", disable=None):
        read += len(chunk)
        new += store.adopt([found for found, _ in chunk])
    return Moved(read, new)


def stats(store: Store) -> dict[str, Any]:
    """Statistics of the store: its content and its use, with a row for each teacher."""
    named = (JUDGMENTS.c.provider, JUDGMENTS.c.model, JUDGMENTS.c.continuation)
    query = sa.select(
        *named,
        sa.func.count().label("answers"),
        sa.func.count(JUDGMENTS.c.failure).label("failures"),
        sa.func.sum(JUDGMENTS.c.usd).label("usd"),
    )
    with store.database.reading() as connection:
        rows = connection.execute(query.group_by(*named).order_by(*named)).mappings().all()
    return {**asdict(store.stats()), "teachers": [dict(row) for row in rows]}
