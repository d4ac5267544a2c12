"""Parquet files that notice a flipped bit: the only place where any is opened or written.

Pages have checksums of the format's own. Of the footer, which says where they lie and of which
types they are, a digest stands before it, in bytes that no reader asks for. Files without either,
of earlier versions and of other programs, are read as they are.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

File, Writer = pq.ParquetFile, pq.ParquetWriter
MARK = b"omniopd1"  # then the SHA-256 of the footer, then the footer
TAIL = 8  # the footer's length and the format's name
# what pyarrow raises for a damaged file
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)


def opened(path: str | Path, **how: bool | int) -> pq.ParquetFile:
    """The file, whose pages are held against their checksums as they are read.

    Raises one of BROKEN, as reading it does, where it is damaged.
    """
    with open(path, "rb") as file:
        found, footer = _footer(file)
    if found.startswith(MARK) and found[len(MARK) :] != hashlib.sha256(footer).digest():
        raise OSError("its footer is not what was written")
    return pq.ParquetFile(path, page_checksum_verification=True, **how)


def batches(
    file: pq.ParquetFile, most: int, group: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield at most so many rows of a row group at a time, on one thread: each of several would
    keep memory of its own. Raises one of BROKEN."""
    rows = 0
    for batch in file.iter_batches(most, [group], columns, use_threads=False):
        rows += batch.num_rows
        yield batch
    if (
        rows != file.metadata.row_group(group).num_rows
    ):  # a page whose header is another's is left out
        raise OSError(f"found {rows} rows, wanted {file.metadata.row_group(group).num_rows}")


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of a file with both checksums. Equal tables give equal bytes."""
    with pq.ParquetWriter(
        path, schema, compression="zstd", version="2.6", write_page_checksum=True
    ) as out:
        yield out
    with path.open("r+b") as file:
        _, footer = _footer(file)
        file.seek(-TAIL, os.SEEK_END)
        tail = file.read()
        file.seek(-TAIL - len(footer), os.SEEK_END)
        file.write(MARK + hashlib.sha256(footer).digest() + footer + tail)


def _footer(file: BinaryIO) -> tuple[bytes, bytes]:
    """Mark and digest, or what stands in their place, and the footer; empty where there is none."""
    before = len(MARK) + hashlib.sha256().digest_size
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - TAIL, 0))
    start = size - TAIL - int.from_bytes(file.read(4), "little")
    if start < 0:
        return b"", b""
    file.seek(max(start - before, 0))  # of an empty table little stands before the footer
    found = file.read(start - file.tell())
    return found, file.read(size - TAIL - start)
