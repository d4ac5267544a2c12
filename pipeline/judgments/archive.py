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
from pipeline.judgments import database, ledger, sums
from pipeline.judgments.claims.claims import lapsed
from pipeline.judgments.earlier.source import EarlierStore
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.retries import DAMAGED, RESTORE
from pipeline.judgments.rows import writing
from pipeline.judgments.schema import (
    ANSWERS,
    BATCHES,
    CLAIMS,
    EARLIER,
    OUTCOMES,
    PREFIX_OF,
    PREFIXES,
    SETTINGS,
    Judgment,
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

    In an order of their own, so that equal stores give equal files. Raises UserError naming the
    first damaged row, and writes nothing.
    """
    count = 0
    with tables.writer(path, SCHEMA) as out:
        chunks = store.rows.ordered(without)
        for chunk in tqdm(chunks, desc="export", unit="chunk", disable=None):
            records = [_record(found, store.name) for found in chunk]
            out.write_table(pa.Table.from_pylist(records, schema=SCHEMA))
            count += len(records)
    return count


def import_(store: Store, path: Path) -> Moved:
    """Add the answers of a Parquet file that the store lacks; the rest stays as it is.

    Raises UserError naming the first damaged row, before anything is stored.
    """
    for _ in tqdm(_from_parquet(path), desc="verify", unit="chunk", disable=None):
        pass
    return _add(store, _from_parquet(path))


def source(url: str) -> Store | EarlierStore:
    """A store to merge from, which keeps its version. Raises UserError where there is none: opening
    would make a new one."""
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
    opened = OpenDatabase(parsed)
    if opened.version == EARLIER:
        return EarlierStore(opened)
    opened.close()
    return Store(url)


def merge(store: Store, other: Store | EarlierStore) -> Moved:
    """Add the answers of another store that this one lacks."""
    rows = other if isinstance(other, EarlierStore) else other.rows
    _whole(other.database)
    for chunk in tqdm(rows.stream(), desc="verify", unit="chunk", disable=None):
        for found in chunk:
            _check(found, other.name, fault(found), DAMAGED)
    return _add(store, rows.stream())


def _whole(opened: OpenDatabase) -> None:
    if why := opened.integrity():
        raise UserError(f"{opened.name}: the file is damaged: {why}. {DAMAGED}")


def verify(store: Store) -> int:
    """Check the database, every row and every total; returns how many answers there are. Raises
    UserError naming the damage."""
    _whole(store.database)
    store.rows.settings.all(), store.rows.outcomes.all()
    count = 0
    for chunk in tqdm(store.rows.stream(), desc="verify", unit="chunk", disable=None):
        for found in chunk:
            _check(found, store.name, fault(found), DAMAGED)
        count += len(chunk)
    with store.database.reading() as connection:
        if miscounted := writing.miscounted(connection):
            raise UserError(
                f"{store.name}: damaged: {len(miscounted)} prefixes have another number of answers "
                f"than were stored, the first is {miscounted[0]}. {DAMAGED}"
            )
        if projects := ledger.disagreeing(connection):
            raise UserError(
                f"{store.name}: the total of {projects[0] or 'no project'}, of {len(projects)} "
                "projects, is not the sum of its lines in the ledger: budgets count wrong. "
                "`omniopd judgments repair` adds them up anew."
            )
    return count


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


def fault(found: Judgment) -> str | None:
    """What is wrong with an answer that fits its checksum."""
    if not (math.isfinite(found.usd) and math.isfinite(found.created_at)):
        return "its price or its time is not a number"
    if found.finish_reason != ("stop" if found.ended else "length"):
        return "its finish reason contradicts its end"
    return None


def _check(found: Judgment, name: str, why: str | None, remedy: str) -> None:
    if why:
        raise UserError(
            f"{name}: the answer {found.key[:12]} of {found.provider} {found.model} is "
            f"damaged: {why}. {remedy}"
        )


def _record(found: Judgment, name: str) -> dict[str, Any]:
    _check(found, name, fault(found), DAMAGED)
    return found._asdict() | {"checksum": sums.checksum(found)}


def _from_parquet(path: Path) -> Iterator[list[Judgment]]:
    """The answers of an export, each held against its checksum and its key."""
    for group in tables.stream(path, SCHEMA):
        chunk = []
        for row in group.to_pylist():
            kept, ids = row.pop("checksum"), row.pop("token_ids")
            found = Judgment(**row, token_ids=None if ids is None else tuple(ids))
            unkeyed = None if sums.keyed(found) else sums.UNKEYED
            why = fault(found) or sums.wrong(found, kept) or unkeyed
            _check(found, str(path), why, RESTORE)
            chunk.append(found)
        yield chunk


def _add(store: Store, chunks: Iterator[list[Judgment]]) -> Moved:
    read = new = 0
    for chunk in tqdm(chunks, desc="import", unit="chunk", disable=None):
        read += len(chunk)
        new += store.adopt(chunk)
    return Moved(read, new)


def stats(store: Store) -> dict[str, Any]:
    """What the store holds and how it was used, with a row for each teacher."""
    named = (SETTINGS.c.provider, SETTINGS.c.model, SETTINGS.c.continuation)
    joined = (
        ANSWERS.join(OUTCOMES, OUTCOMES.c.id == ANSWERS.c.outcome)
        .join(PREFIXES, PREFIXES.c.id == PREFIX_OF)
        .join(SETTINGS, SETTINGS.c.id == PREFIXES.c.settings)
    )
    query = sa.select(
        *named,
        sa.func.count().label("answers"),
        sa.func.count(OUTCOMES.c.failure).label("failures"),
        sa.func.sum(ANSWERS.c.usd).label("usd"),
    ).select_from(joined)
    with store.database.reading() as connection:
        rows = connection.execute(query.group_by(*named).order_by(*named)).mappings().all()
    return {**asdict(store.stats()), "teachers": [dict(row) for row in rows]}
