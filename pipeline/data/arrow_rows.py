"""Rows of Parquet and Arrow files, some at a time. Names that stand twice are refused.

pyarrow's own `to_pylist` keeps the last of two columns of one name and says nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.errors import UserError
from pipeline.data import parquet as parquets

BATCH = 1024
AT_ONCE = 16  # rows as Python objects: a list of a rollout's numbers takes 30 bytes a token
FEATHER_1 = b"FEA1"
FILE = b"ARROW1"  # how the format with random access begins; the stream's has no name
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream that was written to its end
BROKEN = (pa.ArrowException, OSError)


def parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and row, values) of a Parquet file. Raises UserError."""

    def batches() -> Iterator[pa.RecordBatch]:
        # with a buffer, pages are read as they are wanted, and not a whole column of a row group
        with parquets.opened(path, buffer_size=1 << 20) as file:
            _no_twins(path, file.schema_arrow)
            for group in range(file.num_row_groups):
                yield from parquets.batches(file, BATCH, group)

    return _rows(path, "Parquet", batches)


def arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield them of Arrow's file or stream format: .arrow, .feather, `datasets.save_to_disk`."""

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source:
            head = source.read(6)
            source.seek(max(source.size() - len(END), 0))
            tail = source.read(len(END))
            source.seek(0)
            if head.startswith(FEATHER_1):
                raise UserError(
                    f"{path}: found Feather version 1, wanted version 2, which is Arrow. Write it "
                    "again with pyarrow.feather.write_feather, or as Parquet."
                )
            if head == FILE:
                with pa.ipc.open_file(source) as file:
                    _no_twins(path, file.schema)
                    for i in range(file.num_record_batches):
                        yield file.get_batch(i)
                return
            with pa.ipc.open_stream(source) as stream:
                _no_twins(path, stream.schema)
                if tail != END:
                    raise UserError(
                        f"{path}: found a stream of Arrow without its end: it was cut off, or is "
                        "still being written. Write or copy it again."
                    )
                yield from stream

    return _rows(path, "Arrow", batches)


def _rows(
    path: Path, kind: str, batches: Callable[[], Iterator[pa.RecordBatch]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with closing(batches()) as found:  # type: ignore[type-var]
            for batch in found:
                for start in range(0, batch.num_rows, AT_ONCE):
                    for values in batch.slice(start, AT_ONCE).to_pylist():
                        number += 1
                        yield f"{path}, row {number}", values
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, rows {number + 1} to {number + AT_ONCE}: found the bytes "
            f"{error.object[:20]!r} in a column of text, wanted UTF-8. Write the file again."
        ) from error
    except BROKEN as error:
        raise UserError(
            f"{path}: not a {kind} file, or not a whole one ({error}). Download or write it again."
        ) from error


def _no_twins(path: Path, schema: pa.Schema) -> None:
    for place, names in _names("", list(schema)):
        for name, count in Counter(names).items():
            if count > 1:
                raise UserError(
                    f"{path}: found {count} columns named {name!r}{place}, wanted each name once. "
                    "Rename or drop all but one."
                )


def _names(place: str, fields: list[pa.Field]) -> Iterator[tuple[str, list[str]]]:
    """(where, names) of a table's columns, and of those that lie in them."""
    yield place, [field.name for field in fields]
    for field in fields:
        inner = field.type
        while pa.types.is_list(inner) or pa.types.is_large_list(inner):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            yield from _names(f" in {field.name!r}", list(inner))
