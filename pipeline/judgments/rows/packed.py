"""Values of an answer as bytes, and the checksum over them.

text       utf-8, or DEFLATED and its raw deflate where that is shorter
token_ids  a byte that says how, then the ids: the lowest bytes of all, then the next ones, as many
           as the largest id takes (an id of a vocabulary below 2**24 takes three); deflated where
           there are many and that is shorter by a tenth; ids that are none of a vocabulary as JSON
prompt     the 32 bytes of its SHA-256

A format never changes what it means: stores hold it. Another one gets another first byte.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

PLAIN, DEFLATED = b"\0", b"\1"  # of a text
LISTED, DEFLATED_IDS = 0, 0x80  # of token ids; else the number of bytes of each
CHECKSUM_BYTES = 16
FEW = 32  # bytes of a text that deflate makes no shorter
# bytes of token ids from which on deflate is tried, and what it may leave of them
MANY, PAYS = 256, 0.9
_NUMBERS = struct.Struct("<qqqq?qddq")
_WORD = 4  # bytes of an id before they are dealt out


def text(value: str) -> bytes:
    """Raises TypeError or ValueError where it is no text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise TypeError(f"text: found {type(value).__name__}, wanted str")
    plain = value.encode()
    if len(plain) > FEW and len(small := _deflate(plain)) < len(plain):
        return DEFLATED + small
    return PLAIN + plain


def unpacked_text(data: bytes) -> str:
    """Raises ValueError."""
    if data[:1] == DEFLATED:
        try:
            return zlib.decompress(data[1:], -zlib.MAX_WBITS).decode()
        except zlib.error as error:
            raise ValueError(f"its text cannot be inflated ({error})") from error
    if data[:1] != PLAIN:
        raise ValueError(f"its text begins with {data[:1]!r}, wanted {PLAIN!r} or {DEFLATED!r}")
    return data[1:].decode()


def ids(values: Sequence[int] | None) -> bytes | None:
    """Token ids; None of None."""
    if values is None:
        return None
    try:
        words = struct.pack(f"<{len(values)}I", *values)
    except struct.error:  # whatever a server sent
        return bytes([LISTED]) + json.dumps(list(values)).encode()
    width = max(1, (max(values, default=0).bit_length() + 7) // 8)
    planes = b"".join(words[i::_WORD] for i in range(width))
    if len(planes) >= MANY and len(small := _deflate(planes)) < PAYS * len(planes):
        return bytes([width | DEFLATED_IDS]) + small
    return bytes([width]) + planes


def unpacked_ids(data: bytes | None) -> tuple[int, ...] | None:
    """Raises ValueError."""
    if data is None:
        return None
    how = data[0] if data else -1
    if how == LISTED:
        return tuple(json.loads(data[1:]))
    planes = _inflate(data[1:]) if how & DEFLATED_IDS else data[1:]
    width = how & ~DEFLATED_IDS
    if not 1 <= width <= _WORD or len(planes) % width:
        raise ValueError(f"its token_ids begin with {data[:1]!r} and are {len(planes)} bytes")
    count = len(planes) // width
    words = bytearray(_WORD * count)
    for i in range(width):
        words[i::_WORD] = planes[i * count : (i + 1) * count]
    return struct.unpack(f"<{count}I", words)


def prompt(value: str) -> bytes:
    """Raises ValueError unless it is a SHA-256 in hex."""
    data = bytes.fromhex(value)
    if len(data) != hashlib.sha256().digest_size or data.hex() != value:
        raise ValueError(f"prompt: found {value[:80]!r}, wanted a SHA-256 in lower-case hex")
    return data


def checksum(key: str, token_limit: int, row: Sequence[Any]) -> bytes:
    """Of an answer's row, whose last column is the checksum itself, and of the key that its place
    gives: a row that lies elsewhere than it was put has another one.

    Raises TypeError, ValueError or struct.error where a column is none of an answer.
    """
    _, outcome, prompts, completions, seed_sent, usd, created_at, words, tokens, *_ = row
    head = _NUMBERS.pack(
        token_limit,
        outcome,
        prompts,
        completions,
        seed_sent is not None,
        seed_sent or 0,
        usd + 0.0,  # SQLite gives -0.0 back as 0.0
        created_at + 0.0,
        -1 if tokens is None else len(tokens),
    )
    whole = b"".join((bytes.fromhex(key), head, tokens or b"", words))
    return hashlib.sha256(whole).digest()[:CHECKSUM_BYTES]


def _deflate(data: bytes) -> bytes:
    # tables of 16 KiB: they are made anew for each answer
    packer = zlib.compressobj(6, zlib.DEFLATED, -12, 5)
    return packer.compress(data) + packer.flush()


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompress(data, -zlib.MAX_WBITS)
    except zlib.error as error:
        raise ValueError(f"it cannot be inflated ({error})") from error
