"""Checksums of rows of a judgment store.

Those written now cover every column. Earlier versions' cover the key and the answer; the key is
the hash of the request, so what remains unseen in those rows is how they were bought.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

WHOLE = "2:"  # how the checksum of all columns begins; an earlier one is hex from the start
DIGITS = 30  # hex, behind it
_encode = json.JSONEncoder(separators=(",", ":")).encode


def checksum(values: Sequence[Any]) -> str:
    """The checksum of a row's columns in the table's order, without the checksum itself.

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
            return bool(checksum(values) == kept)
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
        for other in _flips(value):
            tried = [*row[:i], other, *row[i + 1 :]]
            if fits(tried[:-1], tried[-1]):
                return i, other
    return None


def _flips(value: Any) -> Iterator[Any]:
    """Yield the values that `value` may have been before one of its bits was flipped."""
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
            data = bytearray(value, "utf-8", "surrogateescape")
            for bit in range(8 * len(data)):
                data[bit // 8] ^= 1 << bit % 8
                yield data.decode("utf-8", "surrogateescape")
                data[bit // 8] ^= 1 << bit % 8


def _double(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
