"""The tables of a judgment store and the row that is an answer."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from pipeline.judgments.keys import Request, canonical, digest, key_of, plain

VERSION = 2  # of the tables below


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
MARK = sa.Table("omniopd_judgments", METADATA, sa.Column("version", sa.Integer, primary_key=True))
JUDGMENTS = sa.Table(
    "judgments",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("token_limit", sa.Integer, primary_key=True, autoincrement=False),
    # the request; the key is the hash of these nine
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt", sa.String(64), nullable=False),  # SHA-256: prompts are long and repeated
    sa.Column("continuation", sa.Text, nullable=False),
    sa.Column("sampler", sa.Text, nullable=False),  # JSON
    sa.Column("sample", sa.Integer, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    # the answer
    sa.Column("text", Verbatim, nullable=False),
    sa.Column("token_ids", sa.Text),  # JSON list
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("finish_reason", sa.String(16), nullable=False),
    sa.Column("model_returned", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text),
    # how it was bought
    sa.Column("requested_n", sa.Integer, nullable=False),
    sa.Column("seed_sent", sa.BigInteger),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("checksum", sa.String(32), nullable=False),
)
CLAIMS = sa.Table(
    "claims",
    METADATA,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),  # seconds since 1970, UTC
)
LEDGER = sa.Table(  # one row for each look-up of a block and each reply that was paid for
    "ledger",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.String(16), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("reused", sa.Integer, nullable=False),
    sa.Column("misses", sa.Integer, nullable=False),
    sa.Column("bought", sa.Integer, nullable=False),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),  # prompt and completion, as billed
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """An answer as the teacher gave it, uncut; failed draws are kept with their reason."""

    key: str
    token_limit: int  # tokens asked for at most; the answer serves every limit up to this one
    provider: str
    model: str
    prompt: str  # SHA-256 of the canonical JSON of the prompt
    continuation: str
    sampler: str  # JSON
    sample: int
    seed: int | None
    attempt: int
    epoch: int
    text: str
    token_ids: tuple[int, ...] | None  # None where the teacher returns none
    ended: bool  # the teacher stopped by itself
    finish_reason: Literal["stop", "length"]
    model_returned: str
    prompt_tokens: int
    completion_tokens: int
    # None, or why it may not be scored: refusal, restart, failed-empty, failed-short
    failure: str | None
    requested_n: int  # n of the request that brought it
    seed_sent: int | None  # seed of that request
    usd: float = 0.0  # its share of what that request cost
    created_at: float = field(default_factory=time.time)  # seconds since 1970, UTC

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


ANSWER = (
    "token_limit",
    "text",
    "token_ids",
    "ended",
    "finish_reason",
    "model_returned",
    "prompt_tokens",
    "completion_tokens",
    "failure",
)


def request_columns(request: Request) -> dict[str, Any]:
    """The columns of a judgment that its request decides, key included."""
    return {
        "key": request.key,
        "provider": request.provider,
        "model": request.model,
        "prompt": digest(request.prompt),
        "continuation": request.continuation,
        "sampler": canonical(plain(request.sampler)).decode(),
        "sample": request.sample,
        "seed": request.seed,
        "attempt": request.attempt,
        "epoch": request.epoch,
    }


def checksum(found: Judgment) -> str:
    """Hash of the answer's own columns, so that a damaged row is seen."""
    values = [found.key, *(getattr(found, name) for name in ANSWER)]
    return hashlib.sha256(canonical(values)).hexdigest()[:32]


def to_row(found: Judgment) -> dict[str, Any]:
    token_ids = None if found.token_ids is None else json.dumps(found.token_ids)
    return asdict(found) | {"token_ids": token_ids, "checksum": checksum(found)}


def from_row(row: Any) -> Judgment:
    values = dict(row)
    del values["checksum"]
    if values["token_ids"] is not None:
        values["token_ids"] = tuple(json.loads(values["token_ids"]))
    return Judgment(**values)
