"""The tables of a judgment store and the row that is an answer."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa

from pipeline.judgments import sums
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


COLUMNS = tuple(column.name for column in JUDGMENTS.columns if column.name != "checksum")
NAMES = (*COLUMNS, "checksum")
IDS = COLUMNS.index("token_ids")
UNKEYED = "its key is not the hash of its request"


@dataclass(frozen=True, slots=True)
class Judgment:
    """An answer as the teacher gave it, uncut; failed draws are kept with their reason.

    In the order of the table's columns.
    """

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


def to_row(found: Judgment) -> dict[str, Any]:
    """The columns of the answer's row, by name."""
    values = stored(found)
    return dict(zip(COLUMNS, values, strict=True)) | {"checksum": sums.checksum(values)}


def stored(found: Judgment) -> tuple[Any, ...]:
    """The columns of a row but for the checksum, as the database has them."""
    ids = None if found.token_ids is None else json.dumps(found.token_ids)
    return tuple(ids if name == "token_ids" else getattr(found, name) for name in COLUMNS)


def checksum(found: Judgment) -> str:
    """Hash of all columns, so that a damaged row is seen."""
    return sums.checksum(stored(found))


def from_row(row: Sequence[Any]) -> Judgment:
    """The answer in a row of all columns. Raises ValueError or TypeError saying what is wrong."""
    found = judgment(row)
    *values, kept = row
    # as it lies there first, which is fast; then by its meaning, whatever blanks its lists have
    if not sums.fits(values, kept) and (why := wrong(found, kept)):
        raise ValueError(why)
    return found


def judgment(row: Sequence[Any]) -> Judgment:
    """The same, whatever its checksum says. Raises ValueError or TypeError."""
    values = [*row[:-1]]
    try:
        values[IDS] = None if values[IDS] is None else tuple(json.loads(values[IDS]))
    except (ValueError, TypeError) as error:
        raise ValueError(f"its token_ids are no JSON list ({error})") from error
    return Judgment(*values)


def wrong(found: Judgment, kept: str) -> str | None:
    """The fault of an answer that has the checksum `kept`; None where there is none."""
    values = stored(found)
    if sums.fits(values, kept):
        return None
    if (hashed := keyed(found)) and sums.earlier(values) == kept:  # its sampler's JSON has blanks
        return None
    what = "its checksum is not that of its answer" if hashed else UNKEYED
    place = sums.flipped(values, kept)
    return what if place is None else f"{what}: a bit of {NAMES[place[0]]} was flipped"


def keyed(found: Judgment) -> bool:
    """Whether the key is the hash of the request's columns."""
    try:
        return found.expected_key() == found.key
    except (ValueError, TypeError, AttributeError, RecursionError):  # its sampler is no JSON
        return False
