"""Random numbers that belong to a row, not to a process.

Every random choice draws from a generator made from names (seed, stage, row id), so that order,
batch size and number of workers cannot change a result.
"""

import hashlib
import json

import numpy as np


def number(*names: str | int) -> int:
    """A 63-bit seed that depends on `names` alone."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: str | int) -> np.random.Generator:
    """A numpy generator for the row, stage or experiment called `names`."""
    return np.random.default_rng(number(*names))
