"""Text and token ids of a continuation, never one without what stands before it.

A tokenizer may put a space before a text's first word, merge across the place where two texts
meet, and end a chunk inside a character. So a continuation is decoded behind its prefix and encoded
behind it, and what is left of an incomplete character is dropped. Imports neither torch nor
transformers.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from tokenizers import Tokenizer

LOST = "\ufffd"  # what bytes that are no character decode to; never encoded
WINDOW = 32  # tokens of a prefix that decide how the next text is cut into tokens
# texts that a continuation is encoded behind where its own prefix would be cut otherwise with it:
# none, a line break, a letter, a full stop, a digit
ANCHORS = ("", "\n", "a", ".", "0")

Decode = Callable[[list[int]], str]


def whole(text: str) -> str:
    """`text` without what is left of a character that its last token cut."""
    return text.rstrip(LOST)


def starts(text: str, before: str) -> bool:
    """Whether a fork of the response `text` may start behind `before`: not inside a character."""
    return whole(before) == before and text.startswith(before)


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Text of a response's ids, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def decode_after(decode: Decode, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text that `ids` add to that of the ids `before` them."""
    window = list(before[-WINDOW:])
    start, both = decode(window), decode([*window, *ids])
    for known in (start, whole(start)):
        if both.startswith(known):
            return both[len(known) :]
    return decode(list(ids))


def characters(decode: Decode, before: Sequence[int], ids: Sequence[int]) -> tuple[list[int], str]:
    """`ids` without the last ones that end inside a character, and what they add to `before`."""
    kept = list(ids)
    while (text := decode_after(decode, before, kept)).endswith(LOST) and kept:
        kept.pop()
    return kept, text


def chunk(tokenizer: Tokenizer, written: Mapping[str, Any], fork: Mapping[str, Any]) -> list[int]:
    """The ids of a fork's chunk that are text: without an end, and without the last ones that end
    inside a character. `written` is the row of its response, `fork` its own."""
    total, start = len(written["token_ids"]), fork["position"]
    last = min(start + fork["length"], total - (written["finish_reason"] == "stop"))
    ids = written["token_ids"][:last]
    return characters(functools.partial(decode, tokenizer), ids[:start], ids[start:])[0]


def left_stripped(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[int, ...]:
    """`ids` without the white space that their text begins with, and without the last ones that end
    inside a character.

    The tokens of the first character behind the white space become those of their text without
    it, so that the same word has the same ids with and without a space before it.
    """
    kept, _ = characters(functools.partial(decode, tokenizer), [], ids)
    for end in range(1, len(kept) + 1):
        first = str(tokenizer.decode(kept[:end], skip_special_tokens=False)).lstrip()
        if first and whole(first) == first:
            again = _ids(tokenizer, first)
            same = tokenizer.decode(again, skip_special_tokens=False) == first
            return (*(again if same else kept[:end]), *kept[end:])
    return ()


def encode_after(tokenizer: Tokenizer, before: Sequence[int], text: str) -> list[int]:
    """Ids of `text` that follow the ids `before`: together they decode to both texts.

    Those of both texts encoded as one where this leaves `before` as it is; else those of `text`
    behind a short one that it does not merge with.
    """
    text = text.replace(LOST, "")
    if not text:
        return []
    window = list(before[-WINDOW:])
    start = str(tokenizer.decode(window, skip_special_tokens=False))
    first: list[int] | None = None
    for ids in chain(_joint(tokenizer, window, start + text), _anchored(tokenizer, text)):
        if tokenizer.decode([*window, *ids], skip_special_tokens=False) == start + text:
            return ids
        first = ids if first is None else first
    return first or []  # a normaliser has changed the text, which no choice of ids undoes


def _joint(tokenizer: Tokenizer, window: list[int], both: str) -> Iterator[list[int]]:
    ids = _ids(tokenizer, both)
    if ids[: len(window)] == window:
        yield ids[len(window) :]


def _anchored(tokenizer: Tokenizer, text: str) -> Iterator[list[int]]:
    """Ids of `text` behind each anchor that it does not merge with."""
    for anchor in ANCHORS:
        mark = _ids(tokenizer, anchor) if anchor else []
        ids = _ids(tokenizer, anchor + text)
        if ids[: len(mark)] == mark:
            yield ids[len(mark) :]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
