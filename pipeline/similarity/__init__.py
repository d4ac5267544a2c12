"""How close a teacher's continuation is to what the student wrote: phi(a, b) in [0, 1].

A metric is a file of this folder with `measure(pairs)`, and its name in METRICS.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.params import file_of
from pipeline.text import whole

METRICS = ("exact", "edit", "prefix", "rouge1", "embedding")


class Pair(NamedTuple):
    """Two continuations of one prefix; texts without special tokens."""

    text: str
    ended: bool
    other: str
    other_ended: bool


Measure = Callable[[Sequence[Pair]], list[float]]


def similarities(pairs: Sequence[Pair], metric: str) -> list[float]:
    """phi of each pair. Texts are left-stripped first, so that a score does not depend on how a
    prefix had to be sent, and lose a character that a chunk's border cut; equal pairs are computed
    once."""
    clean = [
        Pair(whole(pair.text.lstrip()), pair.ended, whole(pair.other.lstrip()), pair.other_ended)
        for pair in pairs
    ]
    unique = list(dict.fromkeys(clean))
    found = dict(zip(unique, load(metric)(unique), strict=True))
    return [found[pair] for pair in clean]


def load(metric: str) -> Measure:
    """The metric called `metric`."""
    found: Measure = importlib.import_module(f"pipeline.similarity.{file_of(metric)}").measure
    return found
