"""YAML as this project reads it: UTF-8, version 1.2 as DVC reads it, and plain values alone.

A file is looked at before values are made of it: what its aliases stand for may be any number of
times its own size, and nesting without end would stop the reader without a word.
"""

import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import UserError, short

DEEPEST = 50  # brackets and indented blocks within each other
MOST = 1_000_000  # values of a file, each alias counted as what it stands for
WIDEST = 2**63  # of a whole number
PLAIN = {f"tag:yaml.org,2002:{name}" for name in "null bool int float str seq map merge".split()}
NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
DIGITS = re.compile(r"[-+]?\d[\d_]{18,}")  # Python reads no number of over 4,300 digits
MARKS = re.compile(r"^(<{7}|={7}|>{7}|\|{7})( .*)?$", re.M)  # of git, where a merge conflicted
# what ruamel raises of a text: its own, and Python's of what looks like a number or a date
FAULTS = (YAMLError, ValueError, OverflowError, TypeError, AttributeError)


def load(path: Path, remedy: str = "Correct it.") -> Any:
    """The values of a file. Raises UserError naming its line or key; OSError as the system does."""
    return parsed(text(path), str(path), remedy)


def text(path: Path) -> str:
    """The text of a file that must be UTF-8. Raises UserError, or OSError."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 4]
        raise UserError(
            f"{path}, line {line}: found the bytes {found!r}, wanted UTF-8. Save the file as "
            "UTF-8: from Latin-1 that is `iconv -f LATIN1 -t UTF-8`."
        ) from error


def made(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a file that a program wrote and may have been damaged. Raises UserError.

    It is read as it is: what is looked for in `parsed`, nobody writes by mistake, and these files
    may be long.
    """
    return mapping(text(path), str(path), remedy)


def mapping(text: str, where: str, remedy: str) -> dict[str, Any]:
    """Likewise, of a text."""
    found = _values(text, where, remedy)
    if not isinstance(found, dict):
        shown = "nothing" if found is None else short(found)
        raise UserError(f"{where}: found {shown}, wanted a mapping of names. {remedy}")
    return found


def parsed(text: str, where: str, remedy: str = "Correct it.") -> Any:
    """The values of `text`, which errors call `where`. Raises UserError."""
    _check(text, where, remedy)
    return plain(_values(text, where, remedy), where)


def _values(text: str, where: str, remedy: str) -> Any:
    if mark := MARKS.search(text):
        line = text.count("\n", 0, mark.start()) + 1
        raise UserError(
            f"{where}, line {line}: found {short(mark[0])}, the mark of a merge that conflicted, "
            f"wanted one version of it. Resolve the conflict with git. {remedy}"
        )
    try:
        return YAML(typ="safe", pure=True).load(text)
    except FAULTS as error:
        raise UserError(f"{where}{_said(error)}. {remedy}") from error
    except RecursionError as error:
        raise UserError(f"{where}: found too many levels, wanted fewer. {remedy}") from error


def plain(found: Any, where: str, key: str = "") -> Any:
    """`found` with dates as text, if JSON holds everything else in it. Raises UserError."""
    match found:
        case None | bool():
            return found
        case str():
            _text(found, where, key)
            return found
        case int() if abs(found) < WIDEST:
            return found
        case int():
            _refuse(where, key, "a number of over 18 digits", "a smaller one", "Write one.")
        case float() if math.isfinite(found):
            return found
        case float():
            shown = ".nan" if math.isnan(found) else ".inf"
            _refuse(where, key, shown, "a finite number", "Write one, or leave the key out.")
        case datetime.date():  # YAML reads one where it is not quoted
            return str(found)
        case dict():
            return {
                _name(name, where, key): plain(value, where, f"{key}.{name}" if key else str(name))
                for name, value in found.items()
            }
        case list():
            return [plain(value, where, f"{key}[{i}]") for i, value in enumerate(found)]
    shown = type(found).__name__
    _refuse(where, key, shown, "text, a number, a list or a mapping", "Write it as one of these.")


def _name(name: Any, where: str, key: str) -> str:
    if not isinstance(name, str):
        shown = f"the key {short(name, 40)}, which is no text"
        _refuse(where, key, shown, "a name", "Quote it, or correct it.")
    _text(name, where, f"a key of {key}" if key else "a key")
    return name


def _text(found: str, where: str, key: str) -> None:
    if bad := NO_TEXT.search(found):
        what = f"{short(bad[0])} in {short(found[:60])}"
        _refuse(where, key, what, "text without control characters", "Take it out.")


def _refuse(where: str, key: str, found: str, wanted: str, remedy: str) -> None:
    raise UserError(f"{where}: {key or 'the file'}: found {found}, wanted {wanted}. {remedy}")


def _check(text: str, where: str, remedy: str) -> None:
    """Raise UserError where values would not be plain, or not end, or be far too many."""
    sizes: dict[str, int] = {}  # values that an anchor stands for
    open_: list[tuple[str | None, int]] = []  # of the nodes around: anchor, values before it
    total = 0
    for event in _events(text, where, remedy):
        name, line = type(event).__name__, event.start_mark.line + 1
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if tag is not None and str(tag) not in (*PLAIN, "!"):
            raise UserError(
                f"{where}, line {line}: found the tag {short(str(tag), 60)}, wanted plain values: "
                "text, numbers, lists and mappings. Take the tag away."
            )
        if name == "AliasEvent":
            if anchor in {one for one, _ in open_}:
                raise UserError(
                    f"{where}, line {line}: found *{anchor} within what it stands for, wanted "
                    "values that end. Write them out."
                )
            total += sizes.get(str(anchor), 1)
        elif name in ("SequenceStartEvent", "MappingStartEvent"):
            open_.append((anchor, total))
            total += 1
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            begun, before = open_.pop()
            if begun is not None:
                sizes[begun] = total - before
        elif name == "ScalarEvent":
            total += 1
            if event.style is None and DIGITS.fullmatch(event.value):
                raise UserError(
                    f"{where}, line {line}: found a number of {len(event.value)} digits, wanted "
                    "at most 18. Write a smaller one, or quote it where it is text."
                )
            if anchor is not None:
                sizes[anchor] = 1
        if len(open_) > DEEPEST or total > MOST:
            deep = len(open_) > DEEPEST
            found = f"over {DEEPEST} levels" if deep else f"over {MOST:,} values with its aliases"
            wanted = "fewer. Write it flatter." if deep else "fewer. Write it without aliases."
            raise UserError(f"{where}, line {line}: found {found}, wanted {wanted}")


def _events(text: str, where: str, remedy: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except FAULTS as error:
        raise UserError(f"{where}{_said(error)}. {remedy}") from error


def _said(error: Exception) -> str:
    """Where and what, without the lines of source that ruamel draws."""
    if not isinstance(error, MarkedYAMLError):
        first = str(error).strip().splitlines() or [type(error).__name__]
        return f": not YAML: found {first[0]}, wanted YAML 1.2"
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    said = " ".join(part for part in (error.context, error.problem) if part)
    return f"{place}: not YAML: {said}, wanted YAML 1.2"
