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

from pipeline.core.errors import UserError, short

DEEPEST = 50  # brackets and indented blocks within each other
MOST = 100_000  # values of a file, each alias counted as what it stands for
WIDEST = 2**63  # of a whole number
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map", "merge")  # tags
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


def mapping(text: str, where: str, remedy: str, fast: bool = False) -> dict[str, Any]:
    """The mapping in such a text. `fast`: by libyaml, as DVC reads what it wrote itself."""
    _unmerged(text, where, remedy)
    found = _values(text, where, remedy, pure=not fast)
    if not isinstance(found, dict):
        shown = "nothing" if found is None else short(found)
        raise UserError(f"{where}: found {shown}, wanted a mapping of names. {remedy}")
    return found


def parsed(text: str, where: str, remedy: str = "Correct it.") -> Any:
    """The values of `text`, which errors call `where`. Raises UserError."""
    _unmerged(text, where, remedy)
    _check(text, where, remedy)
    return plain(_values(text, where, remedy), where)


def _unmerged(text: str, where: str, remedy: str) -> None:
    if mark := MARKS.search(text):
        line = text.count("\n", 0, mark.start()) + 1
        raise UserError(
            f"{where}, line {line}: found {short(mark[0])}, the mark of a merge that conflicted, "
            f"wanted one version of it. Resolve the conflict with git. {remedy}"
        )


def _values(text: str, where: str, remedy: str, pure: bool = True) -> Any:
    try:
        return YAML(typ="safe", pure=pure).load(text)
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
    return str(name)


def _text(found: str, where: str, key: str) -> None:
    if bad := NO_TEXT.search(found):
        what = f"{short(bad[0])} in {short(found[:60])}"
        _refuse(where, key, what, "text without control characters", "Take it out.")


def _refuse(where: str, key: str, found: str, wanted: str, remedy: str) -> None:
    raise UserError(f"{where}: {key or 'the file'}: found {found}, wanted {wanted}. {remedy}")


def _check(text: str, where: str, remedy: str) -> None:
    """Raise UserError where values would not be plain, or not end, or be far too many."""
    seen = _Seen()
    for event in _events(text, where, remedy):
        if said := _tagged(event) or _long(event) or seen.after(event):
            raise UserError(f"{where}, line {event.start_mark.line + 1}: found {said}")


class _Seen:
    """The events so far: how many values they stand for, and what is open."""

    def __init__(self) -> None:
        self.total = 0
        self._sizes: dict[str | None, int] = {}  # values that an anchor stands for
        self._open: list[tuple[str | None, int]] = []  # anchors around, and values before each

    def after(self, event: Any) -> str:
        """Take one more event. Return what is wrong with it, or nothing."""
        anchor = getattr(event, "anchor", None)
        match type(event).__name__:
            case "AliasEvent":
                if anchor in {name for name, _ in self._open}:
                    return f"*{anchor} within itself, wanted values that end. Write them out."
                self.total += self._sizes.get(anchor, 1)
            case "SequenceStartEvent" | "MappingStartEvent":
                self._open.append((anchor, self.total))
                self.total += 1
            case "SequenceEndEvent" | "MappingEndEvent":
                name, before = self._open.pop()
                self._sizes[name] = self.total - before
            case "ScalarEvent":
                self.total += 1
                self._sizes[anchor] = 1
        if len(self._open) > DEEPEST:
            return f"over {DEEPEST} levels, wanted fewer. Write it flatter."
        if self.total > MOST:
            return f"over {MOST:,} values with its aliases, wanted fewer. Write it without aliases."
        return ""


def _tagged(event: Any) -> str:
    tag = str(getattr(event, "tag", None) or "!")
    if tag == "!" or tag.removeprefix("tag:yaml.org,2002:") in PLAIN:
        return ""
    return (
        f"the tag {short(tag, 60)}, wanted plain values: text, numbers, lists and mappings. Take "
        "the tag away."
    )


def _long(event: Any) -> str:
    value = getattr(event, "value", "")
    if getattr(event, "style", "") is not None or not DIGITS.fullmatch(value):
        return ""
    return (
        f"a number of {len(value)} digits, wanted at most 18. Write a smaller one, or quote it "
        "where it is text."
    )


def _events(text: str, where: str, remedy: str) -> Iterator[Any]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except FAULTS as error:
        raise UserError(f"{where}{_said(error)}. {remedy}") from error


def _said(error: Exception) -> str:
    """The place and kind of a fault, without the lines of source that ruamel draws."""
    if not isinstance(error, MarkedYAMLError):
        first = str(error).strip().splitlines() or [type(error).__name__]
        return f": not YAML: found {first[0]}, wanted YAML 1.2"
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
    said = " ".join(part for part in (error.context, error.problem) if part)
    return f"{place}: not YAML: {said}, wanted YAML 1.2"
