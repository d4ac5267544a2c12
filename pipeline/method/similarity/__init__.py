"""How close a teacher's continuation is to what the student wrote: phi(a, b) in [0, 1].

A metric is a file of this folder with `measure(pairs)`, and its name in METRICS. It compares texts,
or the student's token ids if it is in OF_IDS too. One that may be blind to a part of a text is in
PARTIAL too, and its file says of which texts with `unseen(texts)`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from pipeline.core.chosen import chosen, file_of
from pipeline.data.text import left_stripped, whole

METRICS = ("exact", "edit", "prefix", "rouge1", "embedding", "token-edit")
OF_IDS = ("token-edit",)
PARTIAL = ("embedding",)


class Pair(NamedTuple):
    """Two continuations of one prefix; texts without special tokens, ids without an end."""

    text: str
    ended: bool
    other: str
    other_ended: bool
    ids: tuple[int, ...] = ()  # of `text`, the student's; only a metric of OF_IDS reads them
    other_ids: tuple[int, ...] = ()


def paired(one: Mapping[str, Any], other: Mapping[str, Any]) -> Pair:
    """The pair of two rows: columns text and ended, and token_ids where a metric reads them."""
    ids = (tuple(row.get("token_ids", ())) for row in (one, other))
    return Pair(one["text"], one["ended"], other["text"], other["ended"], *ids)


Measure = Callable[[Sequence[Pair]], list[float]]
Unseen = Callable[[Sequence[str]], list[bool]]


def similarities(
    pairs: Sequence[Pair], metric: str, tokenizer: Tokenizer | None = None
) -> list[float]:
    """phi of each pair. Texts and ids are left-stripped first, so that a score does not depend on
    how a prefix had to be sent, and lose a character that a chunk's border cut; equal pairs are
    computed once. A metric of OF_IDS needs the student's `tokenizer`."""
    if metric not in OF_IDS:
        clean = [_of_texts(pair) for pair in pairs]
    elif tokenizer is None:
        raise ValueError(f"{metric}: no tokenizer, wanted the student's. Pass it.")
    else:
        stripped = functools.cache(functools.partial(left_stripped, tokenizer))
        clean = [
            Pair("", p.ended, "", p.other_ended, stripped(p.ids), stripped(p.other_ids))
            for p in pairs
        ]
    unique = list(dict.fromkeys(clean))
    found = dict(zip(unique, load(metric)(unique), strict=True))
    return [found[pair] for pair in clean]


def _of_texts(pair: Pair) -> Pair:
    return Pair(_cleaned(pair.text), pair.ended, _cleaned(pair.other), pair.other_ended)


def _cleaned(text: str) -> str:
    return whole(text.lstrip())


def unseen(texts: Sequence[str], metric: str) -> list[bool]:
    """Whether each text holds something that the metric does not see."""
    if metric not in PARTIAL:
        return [False] * len(texts)
    find: Unseen = chosen("pipeline.method.similarity", file_of(metric), "unseen")
    return find([_cleaned(text) for text in texts])


def blind(metric: str, count: int, texts: int) -> str:
    """Say what it means that `count` of `texts` hold something unseen: two clauses and a remedy."""
    return (
        f"metric {metric} does not see all of {count:,} of {texts:,} texts ({count / texts:.1%}): "
        "they hold characters that its tokenizer does not know, or are too long for it. Texts that "
        "differ only there are equal to it. Use metric token-edit or edit, which see every script"
    )


def load(metric: str) -> Measure:
    """The metric called `metric`."""
    found: Measure = chosen("pipeline.method.similarity", file_of(metric), "measure")
    return found
