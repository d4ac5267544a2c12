"""Judgments: every answer that a teacher ever gave, bought once, shared by runs and people.

A table beside the DAG, neither dep nor out of a stage. Answers are only ever added. A claim with
a lease keeps two processes from buying the same answer at the same time; whoever holds one renews
it while it works, and the claims of a killed process lapse.

SQLite needs a local disk (WAL does not work on network file systems); Postgres serves a team. The
lease is measured with each host's own clock, so hosts that share a store keep theirs in step; a
clock that is wrong can cost a second purchase, never a wrong answer.
"""

import functools
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self

import platformdirs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipeline import database
from pipeline.errors import UserError

SCHEMA = 1  # version of the tables below
CHUNK = 500  # keys in one query or transaction
LEASE_SECONDS = 30.0  # how long the claims of a killed process keep others waiting
SEEDS = 2**31 - 2**16  # seeds of samples 0 are below this
log = logging.getLogger("omniopd")

_metadata = sa.MetaData()
_version = sa.Table(
    "omniopd_judgments", _metadata, sa.Column("version", sa.Integer, primary_key=True)
)
_judgments = sa.Table(
    "judgments",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("token_limit", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("token_ids", sa.Text),  # JSON list
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.String(16), nullable=False),
    sa.Column("model_returned", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("requested_n", sa.Integer, nullable=False),
    sa.Column("seed_sent", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),
)
_claims = sa.Table(
    "claims",
    _metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # seconds since 1970, UTC
)


def url() -> str:
    """Where the store is: JUDGMENTS_URL, or a SQLite file in the user's cache directory."""
    if given := os.environ.get("JUDGMENTS_URL"):
        return given
    folder = platformdirs.user_cache_path("omniopd", ensure_exists=True)
    return sa.URL.create("sqlite", database=str(folder / "judgments.sqlite")).render_as_string()


@dataclass(frozen=True)
class Request:
    """One answer that is wanted: all that can change it, and nothing else."""

    provider: str
    model: str  # pinned id; for a local checkpoint the hash of config, tokenizer and weights
    prompt: tuple[int, ...] | str  # token ids, or rendered text or messages
    continuation: str  # mode in which the prefix is sent
    sampler: Mapping[str, Any]  # every sampler setting that is sent
    sample: int
    seed: int | None  # of this sample; None where the provider takes none
    attempt: int = 0  # draws of this sample that failed before
    epoch: int = 0

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields.

        The prompt enters as the SHA-256 of its own canonical JSON, so that N samples of one
        prefix hash it once. Settings that are equal numbers (1 and 1.0) give equal keys.
        """
        values = {**vars(self), "prompt": _digest(self.prompt), "sampler": _plain(self.sampler)}
        return hashlib.sha256(_canonical(values)).hexdigest()


def seed_for(prompt: tuple[int, ...] | str, sample: int, attempt: int = 0) -> int:
    """The seed of a sample, from prefix, index and attempt alone, below 2**31: Google takes int32.

    Seeds of one prefix are consecutive, so no two of its samples share one, as 31 random bits
    would now and then. An attempt after a failure has seeds of its own: a server that honours
    them would repeat the failure otherwise.
    """
    if not 0 <= sample < 2**31 - SEEDS:
        raise ValueError(f"sample {sample}: wanted 0 to {2**31 - SEEDS - 1}")
    digest = hashlib.sha256(_canonical([_digest(prompt), attempt])).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS + sample


@dataclass(frozen=True, slots=True)
class Judgment:
    """An answer as the teacher gave it, uncut; failed draws are kept with their reason."""

    key: str
    token_limit: int  # tokens asked for at most; the answer serves every limit up to this one
    sample: int
    text: str
    token_ids: tuple[int, ...] | None  # None where the teacher returns none
    ended: bool  # the teacher stopped by itself
    finish_reason: Literal["stop", "length"]
    model_returned: str
    prompt_tokens: int
    completion_tokens: int
    failure: str | None  # None, or why it may not be scored: refusal, failed-empty, ...
    provider: str
    model: str
    requested_n: int  # n of the request that brought it
    seed_sent: int | None  # seed of that request
    created_at: float = field(default_factory=time.time)  # seconds since 1970, UTC


@dataclass(frozen=True)
class Counts:
    """What a store holds."""

    answers: int  # failures included
    failures: int
    prompt_tokens: int  # summed over answers, also where n answers shared one prompt
    completion_tokens: int


class Store:
    """An open store. Use it as a context manager; threads may share it, processes open their own.

    Raises UserError, without any password, when the store cannot be opened, read or written.
    """

    def __init__(self, url: str) -> None:
        parsed = database.parse(url)
        self._name = database.name(parsed)
        self._owner = uuid.uuid4().hex
        self._engine = database.connectable(parsed)
        self._writer = self._engine.execution_options(write=True)
        backend = parsed.get_backend_name()
        self._insert: Any = sqlite.insert if backend == "sqlite" else postgresql.insert
        database.check(self._writer, self._name, _metadata, _version, SCHEMA)
        if backend == "sqlite":
            database.use_wal(self._engine, self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._engine.dispose()

    def find(self, keys: Iterable[str], limit: int) -> Iterator[Judgment]:
        """The stored answers to `keys` that serve `limit` tokens, a chunk at a time.

        Of several rows that serve, the one with the smallest limit. Order within a chunk is the
        keys' own; a key without an answer is left out.
        """
        order = (_judgments.c.key, _judgments.c.token_limit)
        for chunk in _chunks(keys):
            query = sa.select(_judgments).where(*_serves(chunk, limit)).order_by(*order)
            with self._reading() as connection:
                rows = connection.execute(query).all()
            found = {row.key: row for row in reversed(rows)}  # the smallest limit is set last
            yield from (_judgment(found[key]) for key in chunk if key in found)

    def claim(self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS) -> set[str]:
        """Those of `keys` that the caller may now buy, for `lease` seconds.

        Left out: keys that another holds, at whatever limit (also another thread of this store),
        and keys that have been answered for `limit` by now. Look both up again with `find`.
        """
        mine: set[str] = set()
        for chunk in _chunks(keys):
            mine |= self._claim(sorted(chunk), limit, lease)
        return mine

    def _claim(self, keys: list[str], limit: int, lease: float) -> set[str]:
        now = time.time()
        insert = self._insert(_claims)
        new = {"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at}
        take = insert.on_conflict_do_update(
            index_elements=["key"], set_=new, where=_claims.c.expires_at <= now
        ).returning(_claims.c.key)
        rows = [{"key": key, "owner": self._owner, "expires_at": now + lease} for key in keys]
        with self._writing() as connection:
            taken = set(connection.execute(take, rows).scalars())
            # Only after the claim: whoever held it before stored its answer and let go at once.
            answered = sa.select(_judgments.c.key).where(*_serves(taken, limit))
            known = set(connection.execute(answered).scalars())
            self._drop(connection, known)
        return taken - known

    def renew(self, lease: float = LEASE_SECONDS) -> int:
        """Extend every claim of this store to `lease` seconds from now; returns how many."""
        mine = _claims.c.owner == self._owner
        with self._writing() as connection:
            values = {"expires_at": time.time() + lease}
            return int(connection.execute(_claims.update().where(mine).values(values)).rowcount)

    def release(self, keys: Iterable[str]) -> None:
        """Give up the claims on `keys`; those of others stay."""
        for chunk in _chunks(keys):
            with self._writing() as connection:
                self._drop(connection, chunk)

    @contextmanager
    def holding(
        self, keys: Iterable[str], limit: int, lease: float = LEASE_SECONDS
    ) -> Iterator[frozenset[str]]:
        """Claim what can be claimed of `keys` and yield it, renewing until the block ends.

        The caller buys what it got, then looks up the rest with `find` and claims again what is
        still missing: its holder may have been killed.
        """
        mine = frozenset(self.claim(keys, limit, lease))
        done = threading.Event()
        renewal = threading.Thread(target=self._keep, args=(done, lease), daemon=True)
        if mine:
            renewal.start()
        try:
            yield mine
        finally:
            done.set()
            if mine:
                renewal.join()
                self.release(mine)

    def _keep(self, done: threading.Event, lease: float) -> None:
        while not done.wait(lease / 3):
            try:
                self.renew(lease)
            except UserError as error:  # another try follows; the block's own writes will raise
                log.warning(f"claims not renewed, an answer may be bought twice: {error}")

    def add(self, judgments: Sequence[Judgment]) -> None:
        """Store all answers of one response, or none, and release their claims with them.

        An answer that is there already stays as it is: the first writer wins.
        """
        if not judgments:
            return
        rows = [
            asdict(found)
            | {"token_ids": None if found.token_ids is None else json.dumps(found.token_ids)}
            for found in sorted(judgments, key=lambda found: (found.key, found.token_limit))
        ]
        with self._writing() as connection:
            connection.execute(self._insert(_judgments).on_conflict_do_nothing(), rows)
            for chunk in _chunks(found.key for found in judgments):
                self._drop(connection, chunk)

    def stats(self) -> Counts:
        """Answers, failures and tokens in the store."""
        columns = (_judgments.c.prompt_tokens, _judgments.c.completion_tokens)
        sums = (sa.func.coalesce(sa.func.sum(column), 0) for column in columns)
        query = sa.select(sa.func.count(), sa.func.count(_judgments.c.failure), *sums)
        with self._reading() as connection:
            return Counts(*connection.execute(query.select_from(_judgments)).one())

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        return database.transaction(self._engine, self._name)

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return database.transaction(self._writer, self._name)

    def _drop(self, connection: sa.Connection, keys: Iterable[str]) -> None:
        mine = (_claims.c.owner == self._owner, _claims.c.key.in_(sorted(keys)))
        connection.execute(_claims.delete().where(*mine))


def _serves(keys: Iterable[str], limit: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (_judgments.c.key.in_(sorted(keys)), _judgments.c.token_limit >= limit)


def _judgment(row: Any) -> Judgment:
    values = dict(row._mapping)
    if values["token_ids"] is not None:
        values["token_ids"] = tuple(json.loads(values["token_ids"]))
    return Judgment(**values)


def _chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(keys)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@functools.lru_cache(maxsize=4096)
def _digest(prompt: tuple[int, ...] | str) -> str:
    return hashlib.sha256(_canonical(prompt)).hexdigest()


def _plain(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers that are equal written alike: 1 and 1.0 are one setting."""
    return {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in sampler.items()
    }
