"""The tables of a judgment store, and what an answer is.

What many answers have in common stands once: `settings` (what is asked, and how), `outcomes` (how
an answer ended), `prefixes` (a prompt as it was asked about). An answer's id is its prefix's with
its sample behind it, so the N answers to a prefix lie together, and no index in the order of hashes
has a line for each of them: its key follows from its place.
"""

import json
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from pipeline.judgments.keys import Request, canonical, key_of, plain

VERSION = 3  # of the tables below
EARLIER = 2  # what is brought into these (`pipeline/judgments/earlier`)
SAMPLE_BITS = 24  # of an answer's id; the rest is its prefix's
NO_SEED = -(2**63)  # first_seed where the provider takes none: a unique index compares no NULL


class Bytes(sa.LargeBinary):
    """Bytes as they are: both drivers take them and give them."""

    def bind_processor(self, dialect: sa.Dialect) -> None:
        return None

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> None:
        return None


ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # as SQLite names the id of a row
METADATA = sa.MetaData()
MARK = sa.Table("omniopd_judgments", METADATA, sa.Column("version", sa.Integer, primary_key=True))
SETTINGS = sa.Table(  # all that a key holds but for prompt, sample, seed and attempt
    "settings",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", Bytes, nullable=False, unique=True),  # of the columns below
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("continuation", sa.Text, nullable=False),
    sa.Column("sampler", sa.Text, nullable=False),  # JSON
    sa.Column("epoch", sa.Integer, nullable=False),
)
OUTCOMES = sa.Table(
    "outcomes",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", Bytes, nullable=False, unique=True),  # of the columns below
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.String(16), nullable=False),
    sa.Column("model_returned", sa.Text, nullable=False),
    sa.Column("failure", sa.Text),
    sa.Column("requested_n", sa.Integer, nullable=False),
)
PREFIXES = sa.Table(
    "prefixes",
    METADATA,
    sa.Column("id", ID, primary_key=True),
    sa.Column("settings", sa.Integer, nullable=False),  # id
    sa.Column("prompt", Bytes, nullable=False),  # SHA-256
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("first_seed", sa.BigInteger, nullable=False),  # of sample 0; they are consecutive
    sa.Column("token_limit", sa.Integer, nullable=False),
    # how many there are: one that damage hides is missed, not bought again
    sa.Column("answers", sa.Integer, nullable=False),
)
PLACE = ("settings", "prompt", "attempt", "first_seed", "token_limit")  # what tells them apart
sa.Index("ix_prefixes_place", *(PREFIXES.c[name] for name in PLACE), unique=True)
ANSWERS = sa.Table(
    "answers",
    METADATA,
    sa.Column("id", ID, primary_key=True, autoincrement=False),
    sa.Column("outcome", sa.Integer, nullable=False),  # id
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seed_sent", sa.BigInteger),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("text", Bytes, nullable=False),  # packed, as the next
    sa.Column("token_ids", Bytes),
    sa.Column("checksum", Bytes, nullable=False),  # of the key and the columns above
)
PREFIX_OF: sa.ColumnElement[int] = ANSWERS.c.id.op(">>", return_type=sa.BigInteger())(
    sa.literal_column(str(SAMPLE_BITS))
)
CLAIMS = sa.Table(
    "claims",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # seconds since 1970, UTC
)
COUNTS = ("reused", "misses", "bought", "requests", "tokens")  # of an entry, beside its dollars
ENTRIES = sa.Table(  # the ledger: one for each look-up of a block and each reply that was paid for
    "entries",
    METADATA,
    sa.Column("id", ID, primary_key=True),
    sa.Column("project", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    *(sa.Column(name, sa.Integer, nullable=False) for name in COUNTS[:-1]),
    sa.Column("tokens", sa.BigInteger, nullable=False),  # prompt and completion, as billed
    sa.Column("usd", sa.Double, nullable=False),
)
sa.Index("ix_entries_project_created_at", ENTRIES.c.project, ENTRIES.c.created_at)
TOTALS = sa.Table(  # of a project's entries, kept in the transactions that make them
    "totals",
    METADATA,
    sa.Column("project", sa.String(16), primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTS),
    sa.Column("usd", sa.Double, nullable=False),
)
BATCHES = sa.Table(  # handed to a provider's batch service and not yet collected
    "batches",
    METADATA,
    sa.Column("id", sa.String(128), primary_key=True),
    sa.Column("teacher", sa.Text, nullable=False),  # provider and model
    sa.Column("keys", sa.Text, nullable=False),  # JSON list: the first key of each request
    sa.Column("created_at", sa.Double, nullable=False),
)
CHECKS = sa.Table(  # teachers that passed `omniopd teacher check`
    "checks",
    METADATA,
    sa.Column("teacher", sa.String(64), primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
)


class Judgment(NamedTuple):
    """An answer as the teacher gave it, uncut; failed draws are kept with their reason.

    A tuple, because look-ups make millions and a frozen dataclass takes eight times as long.
    """

    key: str
    token_limit: int  # tokens asked for at most; the answer serves every limit up to this one
    # the request; the key is the hash of these nine
    provider: str
    model: str
    prompt: str  # SHA-256 of the canonical JSON of the prompt
    continuation: str
    sampler: str  # JSON
    sample: int
    seed: int | None
    attempt: int
    epoch: int
    # the answer
    text: str
    token_ids: tuple[int, ...] | None  # None where the teacher returns none
    ended: bool  # the teacher stopped by itself
    finish_reason: Literal["stop", "length"]
    model_returned: str
    prompt_tokens: int
    completion_tokens: int
    # None, or why it may not be scored: refusal, restart, failed-empty, failed-short
    failure: str | None
    # how it was bought
    requested_n: int  # n of the request that brought it
    seed_sent: int | None  # seed of that request
    usd: float  # its share of what that request cost
    created_at: float  # seconds since 1970, UTC

    def expected_key(self) -> str:
        """The key that the request columns hash to."""
        return key_of(
            {
                "provider": self.provider,
                "model": self.model,
                "prompt": self.prompt,
                "continuation": self.continuation,
                "sampler": json.loads(self.sampler),
                "sample": self.sample,
                "seed": self.seed,
                "attempt": self.attempt,
                "epoch": self.epoch,
            }
        )


def request_columns(request: Request) -> dict[str, Any]:
    """The columns of a judgment that its request decides, key included."""
    return {
        "key": request.key,
        "provider": request.provider,
        "model": request.model,
        "prompt": request.prompt_hash,
        "continuation": request.continuation,
        "sampler": canonical(plain(request.sampler)).decode(),
        "sample": request.sample,
        "seed": request.seed,
        "attempt": request.attempt,
        "epoch": request.epoch,
    }
