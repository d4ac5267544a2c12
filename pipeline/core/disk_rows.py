"""Rows of arrays on disk, read back in any order: what a stage needs later and must not hold."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

Row = tuple[np.ndarray, ...]
T = TypeVar("T")


class Spool(Mapping[int, Row]):
    """Rows by their number, each of the same number of arrays and types, in a file without a name.

    In memory stand 8 bytes a row and 4 bytes an array of it, twice that while the number of rows
    is not told in advance. The file lies in the working folder:
    on many machines /tmp is memory. It is gone when the process is.
    """

    def __init__(self, total: int = 1) -> None:
        self._file = tempfile.TemporaryFile(dir=".")  # noqa: SIM115 - as long as the spool
        self._starts = np.full(total, -1, np.int64)
        self._lengths = np.zeros((total, 0), np.int32)
        self._types: list[np.dtype] = []
        self._end = self._count = 0

    def add(self, index: int, row: Row) -> None:
        if not self._count:
            self._types = [array.dtype for array in row]
            self._lengths = np.zeros((len(self._starts), len(row)), np.int32)
        if index >= len(self._starts):
            more = max(index + 1 - len(self._starts), len(self._starts))
            self._starts = np.concatenate([self._starts, np.full(more, -1, np.int64)])
            self._lengths = np.pad(self._lengths, ((0, more), (0, 0)))
        self._count += self._starts[index] < 0
        pairs = zip(row, self._types, strict=True)
        content = b"".join(array.astype(dtype).tobytes() for array, dtype in pairs)
        self._starts[index], self._lengths[index] = self._end, [len(array) for array in row]
        self._file.seek(self._end)
        self._file.write(content)
        self._end += len(content)

    def __getitem__(self, index: int) -> Row:
        start = int(self._starts[index])
        if start < 0:
            raise KeyError(index)
        lengths = self._lengths[index].tolist()
        sizes = [n * t.itemsize for n, t in zip(lengths, self._types, strict=True)]
        self._file.seek(start)
        content = memoryview(bytearray(self._file.read(sum(sizes))))
        ends = np.cumsum(sizes).tolist()
        return tuple(
            np.frombuffer(content[end - size : end], dtype)
            for size, end, dtype in zip(sizes, ends, self._types, strict=True)
        )

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._starts >= 0).tolist())

    def __len__(self) -> int:
        return int(self._count)

    def length(self, index: int, column: int) -> int:
        """The length of one array of a row, without reading it."""
        return int(self._lengths[index, column])


class Each(Sequence[T]):
    """A view that calls `make` on a row when it is asked for; each row so many `times` in turn."""

    def __init__(self, rows: Any, make: Callable[[Any], T], times: int = 1) -> None:
        self._rows, self._make, self._times = rows, make, times

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self._make(self._rows[index // self._times])

    def __len__(self) -> int:
        return len(self._rows) * self._times


def integers(row: Row) -> list[int]:
    """A row's first array, which holds token ids."""
    return list(row[0].tolist())


def decode(array: np.ndarray) -> str:
    """The text that `encode` made an array of."""
    return array.tobytes().decode()


def encode(value: str) -> np.ndarray:
    """The UTF-8 bytes of a text as an array that a spool takes."""
    return np.frombuffer(value.encode(), np.uint8)
