"""Checksums of answers by their values: in archives, and in stores of version 2.

Those written now cover every value. The first ones cover the key and the answer; the key is the
hash of the request, so what remains unseen in those rows is how they were bought. In the store's
own tables an answer's checksum is of its row as it lies there (`rows/packed.py`).
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from pipeline.judgments.schema import Judgment

COLUMNS = Judgment._fields
NAMES = (*COLUMNS, "checksum")
IDS = COLUMNS.index("token_ids")
UNKEYED = "its key is not the hash of its request"

WHOLE = "2:"  # how the checksum of all columns begins; an earlier one is hex from the start
DIGITS = 30  # hex, behind it
_encode = json.JSONEncoder(separators=(",", ":")).encode


def stored(found: Judgment) -> tuple[Any, ...]:
    """Its values, the token ids as JSON."""
    ids = None if found.token_ids is None else json.dumps(found.token_ids)
    return tuple(ids if name == "token_ids" else getattr(found, name) for name in COLUMNS)


def checksum(found: Judgment) -> str:
    """Hash of all values, so that a damaged row is seen."""
    return of(stored(found))


def wrong(found: Judgment, kept: str) -> str | None:
    """What is wrong with an answer that has the checksum `kept`; None where nothing is."""
    values = stored(found)
    if fits(values, kept):
        return None
    if (hashed := keyed(found)) and earlier(values) == kept:  # its sampler's JSON has blanks
        return None
    what = "its checksum is not that of its answer" if hashed else UNKEYED
    place = flipped(values, kept)
    return what if place is None else f"{what}: a bit of {NAMES[place[0]]} was flipped"


def keyed(found: Judgment) -> bool:
    """Whether the key is the hash of the request's columns."""
    try:
        return found.expected_key() == found.key
    except (ValueError, TypeError, AttributeError, RecursionError):  # its sampler is no JSON
        return False


def of(values: Sequence[Any]) -> str:
    """Checksum of the values in their order.

    Raises ValueError or TypeError where a price or a time is no number.
    """
    *rest, usd, created_at = values
    # SQLite gives -0.0 back as 0.0, and a whole number of dollars as a float
    text = _encode([*rest, float(usd) + 0.0, float(created_at) + 0.0])
    return WHOLE + hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def fits(values: Sequence[Any], kept: Any) -> bool:
    """Whether a row has the checksum `kept`, of whichever version."""
    try:
        if str(kept).startswith(WHOLE):
            return bool(of(values) == kept)
        return bool(earlier(values) == kept and _key(values) == values[0])
    except (ValueError, TypeError):  # a column of another type
        return False


def earlier(values: Sequence[Any]) -> str:
    """The checksum of earlier versions: over the key and the answer's own columns."""
    key, limit, text, ids = values[0], values[1], *values[11:13]
    listed = "null" if ids is None else ids.replace(", ", ",")  # as JSON writes it without blanks
    whole = f"{_encode([key, limit, text])[:-1]},{listed},{_encode(values[13:19])[1:]}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _key(values: Sequence[Any]) -> str:
    """`keys.key_of` of a request whose sampler is as it writes one; without parsing it."""
    provider, model, prompt, continuation, sampler, sample, seed, attempt, epoch = values[2:11]
    text = (
        f'{{"attempt":{attempt},"continuation":{quoted(continuation)},"epoch":{epoch},'
        f'"model":{quoted(model)},"prompt":{quoted(prompt)},"provider":{quoted(provider)},'
        f'"sample":{sample},"sampler":{sampler},"seed":{"null" if seed is None else seed}}}'
    )
    return hashlib.sha256(text.encode()).hexdigest()


def flipped(values: Sequence[Any], kept: Any) -> tuple[int, Any] | None:
    """Which column of a damaged row, the checksum's being the last, had one bit flipped, and what
    it was; None where that does not explain the damage.

    By trying each: some ten thousand checksums, a tenth of a second for an answer of a page.
    """
    row = [*values, kept]
    for i, value in enumerate(row):
        for other in flips(value):
            tried = [*row[:i], other, *row[i + 1 :]]
            if fits(tried[:-1], tried[-1]):
                return i, other
    return None


def flips(value: Any) -> Iterator[Any]:
    """What a value may have been before one of its bits was flipped."""
    match value:
        case bool():
            yield not value
        case int():
            yield from (value ^ 1 << bit for bit in range(63))
            yield value ^ -1 << 63
        case float():
            bits = struct.unpack("<q", struct.pack("<d", value))[0]
            yield from (_double(bits ^ 1 << bit) for bit in range(63))
            yield _double(bits ^ -1 << 63)
            if value.is_integer() and abs(value) < 1 << 53:  # SQLite keeps it as an integer
                yield from (float(int(value) ^ 1 << bit) for bit in range(48))
        case str():
            for data in flips(value.encode("utf-8", "surrogateescape")):
                yield data.decode("utf-8", "surrogateescape")
        case bytes():
            data = bytearray(value)
            for bit in range(8 * len(data)):
                data[bit // 8] ^= 1 << bit % 8
                yield bytes(data)
                data[bit // 8] ^= 1 << bit % 8


def _double(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
