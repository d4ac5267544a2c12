"""Objects of JSON files, one after the other: what is held in memory is one row, never the file."""

import codecs
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.core.json_values import DECODER, Refused, sound

LONGEST = 64 << 20  # bytes of a row
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}  # that pyarrow decompresses as it reads
BOM = b"\xef\xbb\xbf"
STARTS = {  # of files that are something else
    b"\xff\xfe": "UTF-16, not UTF-8. Save it as UTF-8: `iconv -f UTF-16 -t UTF-8`.",
    b"\xfe\xff": "UTF-16, not UTF-8. Save it as UTF-8: `iconv -f UTF-16 -t UTF-8`.",
    b"\x1f\x8b": "gzip. End its name in .gz.",
    b"\x28\xb5\x2f\xfd": "zstd. End its name in .zst.",
    b"BZh": "bzip2. End its name in .bz2.",
    b"PK\x03\x04": "a zip archive. Unpack it, and name a file in it.",
    b"PAR1": "Parquet. End its name in .parquet.",
    b"ARROW1": "Arrow. End its name in .arrow.",
    b"version https://git-lfs": "a pointer of Git LFS. Fetch the file itself: `git lfs pull`.",
}
SPACE = re.compile(r"[ \t\r\n]*")


def lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of JSON lines. Raises UserError."""
    number = 0
    with _opened(path) as stream:
        while line := _read(stream.readline, path, LONGEST + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > LONGEST:
                raise _too_long(where)
            text = _decoded(where, line)
            if text.strip():
                if number == 1 and text.lstrip().startswith("["):
                    raise _array(path, where, text)
                yield where, _object(where, _whole(where, text))


def values(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and entry, object) of a JSON array, or of objects one after the other."""
    with _opened(path) as stream:
        buffer = _Buffer(path, stream)
        if buffer.skip("["):
            yield from _entries(buffer)
            return
        objects = _objects(buffer)
        begin = list(itertools.islice(objects, 2))
        if len(begin) == 1:
            _no_list(*begin[0])
        yield from begin
        yield from objects


def _entries(buffer: "_Buffer") -> Iterator[tuple[str, dict[str, Any]]]:
    for number in itertools.count(1):
        if buffer.skip("]"):
            break
        if number > 1 and not buffer.skip(","):
            what = "its array has no end: the file was cut off"
            raise buffer.broken(what if buffer.ended() else "wanted a comma between entries")
        where = f"{buffer.path}, entry {number}"
        yield where, _object(where, buffer.value(where))
    if not buffer.ended():
        raise buffer.broken("found text behind the array's end")


def _objects(buffer: "_Buffer") -> Iterator[tuple[str, dict[str, Any]]]:
    while not buffer.ended():
        where = f"{buffer.path}, line {buffer.line()}"
        yield where, _object(where, buffer.value(where))


class _Buffer:
    """Text of a file that is read and not yet parsed."""

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self.path, self.stream = path, stream
        self.text, self.at = "", 0
        self.lines, self.counted = 1, 0  # up to where in the text the lines are counted
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def more(self, size: int = 1 << 16) -> bool:
        """Read on; False at the file's end."""
        data = _read(self.stream.read, self.path, size)
        try:
            decoded = self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            before = self.text.count("\n", self.at) + error.object.count(b"\n", 0, error.start)
            raise _no_text(f"{self.path}, line {self.line() + before}", error) from error
        self.line()
        self.text, self.at, self.counted = self.text[self.at :] + decoded, 0, 0
        return bool(data)

    def line(self) -> int:
        self.lines += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.lines

    def ended(self) -> bool:
        """Whether nothing but space is left."""
        while True:
            match = SPACE.match(self.text, self.at)
            assert match is not None  # it matches nothing, too
            self.at = match.end()
            if self.at < len(self.text):
                return False
            if not self.more():
                return True

    def skip(self, sign: str) -> bool:
        if self.ended() or not self.text.startswith(sign, self.at):
            return False
        self.at += 1
        return True

    def value(self, where: str) -> Any:
        """The value that begins here."""
        size = 1 << 16
        if self.ended():
            raise self.broken("found the file's end, wanted an entry")
        while True:
            try:
                parsed, end = DECODER.raw_decode(self.text, self.at)
            except Refused as error:
                raise _bad(where, error) from error
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at > LONGEST:
                    raise _too_long(where) from error
                size *= 2  # it may only be cut: what is read again and again stays a fixed part
                if not self.more(size):
                    raise UserError(f"{where}: not JSON ({_said(error)}). Correct it.") from error
                continue
            text = self.text[self.at : end]
            self.at = end
            return sound(where, parsed, text)

    def broken(self, what: str) -> UserError:
        return UserError(f"{self.path}, line {self.line()}: not JSON ({what}). Correct it.")


def _opened(path: Path) -> io.BufferedReader:
    """The file's bytes, decompressed, without a mark of byte order. Raises UserError."""
    codec = CODECS.get(path.suffix.lower())
    stream = io.BufferedReader(pa.input_stream(path, compression=codec), 1 << 16)
    try:
        head = _read(stream.peek, path, 64)
        for start, what in STARTS.items():
            if head.startswith(start):
                raise UserError(f"{path}: wanted JSON, found {what}")
        if b"\0" in head[:4]:
            raise UserError(
                f"{path}: wanted JSON, found zero bytes as UTF-16 has them: not UTF-8. Save it as "
                "UTF-8."
            )
        if head.startswith(BOM):
            stream.read(len(BOM))
    except UserError:
        stream.close()
        raise
    return stream


def _read(read: Any, path: Path, size: int) -> bytes:
    try:
        data: bytes = read(size)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path}: not readable to its end ({error}), wanted a whole file of the kind that its "
            "suffix says. Copy or download it again."
        ) from error
    return data


def _decoded(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _no_text(where, error) from error


def _no_text(where: str, error: UnicodeDecodeError) -> UserError:
    return UserError(
        f"{where}: not UTF-8 (found the bytes {error.object[error.start : error.start + 4]!r}), "
        "wanted UTF-8. Save the file as UTF-8: from Latin-1 that is "
        "`iconv -f LATIN1 -t UTF-8`."
    )


def _whole(where: str, text: str) -> Any:
    try:
        value = DECODER.decode(text)
    except Refused as error:
        raise _bad(where, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: not JSON ({_said(error)}), wanted one object a line. Correct it."
        ) from error
    return sound(where, value, text)


def _said(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "too deeply nested" if isinstance(error, RecursionError) else str(error)


def _object(where: str, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise UserError(
            f"{where}: found {type(found).__name__}, wanted an object with fields, as "
            '{"prompt": "..."}. Correct the row.'
        )
    return found


def _bad(where: str, error: Refused) -> UserError:
    return UserError(f"{where}: {error}. Correct the row.")


def _too_long(where: str) -> UserError:
    return UserError(
        f"{where}: found over {LONGEST >> 20} MiB in one row, wanted rows. Is a bracket or the end "
        "of a line missing, or is the list of rows a field of one object? Write one object a line."
    )


def _array(path: Path, where: str, text: str) -> UserError:
    if isinstance(_tried(text), list) and "{" not in text:
        return UserError(f"{where}: found list, wanted an object with fields. Correct the row.")
    return UserError(
        f"{where}: not JSON lines (found the beginning of an array), wanted one object a line. "
        f"Rename it to {path.with_suffix('.json').name!r}, which may hold an array."
    )


def _tried(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _no_list(where: str, fields: dict[str, Any]) -> None:
    """A file's only object may be a row. It is none where a field holds what looks like rows."""
    lists = {key: x for key, x in fields.items() if isinstance(x, list) and x}
    talks = any(isinstance(x[0], dict) and "role" in x[0] for x in lists.values())
    a_row = talks or any(isinstance(x, str) for x in fields.values())
    for key, value in lists.items():
        objects = all(isinstance(x, dict) and "role" not in x for x in value)
        if objects or not a_row:
            raise UserError(
                f"{where}: found one object whose {key!r} holds a list of {len(value)}, wanted "
                f"the list itself. Write it to a file of its own: `jq .{key} FILE`."
            )
