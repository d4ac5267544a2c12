"""One value of JSON, without what Python's own reader lets through and something later would
stumble over: half a surrogate pair, a key twice, NaN, numbers that no float holds.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from pipeline.core.errors import UserError

ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON writes \ud800 to \udfff
HALF = re.compile(r"[\ud800-\udfff]")


class Refused(ValueError):
    """A value that JSON or UTF-8 does not have."""


def sound(where: str, found: Any, text: str) -> Any:
    if "\\u" in text and ESCAPED.search(text):
        for place, what, wanted in _unsound("", found):
            raise UserError(f"{where}: {place}: found {what}, wanted {wanted}. Correct the row.")
    return found


def _unsound(place: str, found: Any) -> Iterator[tuple[str, str, str]]:
    """(field, found, wanted) of strings that are no text."""
    match found:
        case str():
            if half := HALF.search(found):
                start = max(half.start() - 20, 0)
                what = (
                    f"{half[0]!r} in {found[start : half.end() + 20]!r}, half of a surrogate pair"
                )
                yield place, what, "whole characters, or none: the other half was cut off"
        case list():
            for i, value in enumerate(found):
                yield from _unsound(f"{place}[{i}]", value)
        case dict():
            for key, value in found.items():
                yield from _unsound(f"a key of {place}" if place else "a key", key)
                yield from _unsound(f"{place}.{key}" if place else key, value)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Refused(f"found the key {twice!r} twice in one object, wanted it once")
    return found


def _constant(name: str) -> NoReturn:
    raise Refused(f"found {name}, which JSON does not have, wanted a finite number or null")


def _float(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise Refused(f"found {text[:40]}, which no float holds, wanted a finite number or null")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)
