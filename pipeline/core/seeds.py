"""Random numbers that belong to a row, not to a process.

Every random choice draws from a generator made from names (seed, stage, row id), so that order,
batch size and number of workers cannot change a result.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def number(*names: str | int) -> int:
    """A 63-bit seed that depends on `names` alone."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: str | int) -> np.random.Generator:
    """A numpy generator for the row, stage or experiment called `names`."""
    return np.random.default_rng(number(*names))


class Uniforms(Sequence[np.ndarray]):
    """For each of `rows` rows `count` numbers in [0, 1) of its own, drawn when they are asked for.

    `names` says what row i's belong to.
    """

    def __init__(self, rows: int, count: int, names: Callable[[int], Sequence[str | int]]) -> None:
        self._rows, self._count, self._names = rows, count, names

    def __getitem__(self, index: Any) -> Any:
        return generator(*self._names(index)).random(self._count)

    def __len__(self) -> int:
        return self._rows
