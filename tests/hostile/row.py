"""A row of the tables: how an input is made, what takes it, and what must come of it."""

import contextlib
import importlib
import io
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.errors import LONGEST, STATUS

NOBODY = 65534  # a user who owns nothing
# what to do: a verb in the imperative, or a command
DO = re.compile(
    r"`[^`]+`|\b(add|ask|change|choose|convert|copy|correct|define|download|enlarge|export|free|give"
    r"|import|install|leave|lower|make|mend|move|name|pass|put|quote|raise|read|remove|rename|"
    r"reorder|rerun|resolve|restore|run|save|set|shorten|take|train|try|unset|use|wait|write)\b",
    re.I,
)
WANTED = re.compile(
    r"\b(wanted|want|wants|must|needs?|unknown key|missing|one of|there are|defined are|are forked|"
    r"at least|at most|takes|there is no|not a|no such|not set|not found|neither)\b",
    re.I,
)


@dataclass(frozen=True)
class Row:
    name: str
    make: Callable[[Path, pytest.MonkeyPatch], list[str]]  # in a folder; returns what is run there
    found: str  # a pattern that names what was found and where; empty: it is taken right
    writes: str = r"$^"  # a pattern of files that may be there afterwards


@dataclass(frozen=True)
class Done:
    status: int | str | None
    output: str
    errors: str


def run(command: list[str], monkeypatch: pytest.MonkeyPatch) -> Done:
    """The command's own entry: `omniopd ...`, or `stages.X ...`."""
    program, *arguments = command
    main = cli.main if program == "omniopd" else importlib.import_module(program).main
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    output, errors = io.StringIO(), io.StringIO()
    status: int | str | None = 0
    handler = logging.StreamHandler(errors)
    log = logging.getLogger("omniopd")
    log.addHandler(handler)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        status = end.code
    finally:
        log.removeHandler(handler)
    return Done(status, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, to whom every file is open."""
    if os.geteuid():
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): _content(path) for path in found}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def faults(row: Row, done: Done, before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """What is wrong with what came of a row."""
    found = []
    if not row.found:
        if done.status not in (0, None):
            found.append(f"status {done.status}, wanted 0")
        return found
    *_, last = done.errors.strip().splitlines() or [""]
    if done.status != STATUS:
        found.append(f"status {done.status}, wanted {STATUS}")
    if not last.startswith("error: "):
        found.append(f"no error on the last line: {done.errors[-300:]!r}")
    if len(last) > LONGEST + len("error: "):
        found.append(f"{len(last)} characters")
    if done.errors.strip().count("\n") > done.errors.count("error: "):
        found.append(f"more than a paragraph: {done.errors[:500]!r}")
    if "Traceback" in done.errors:
        found.append("a traceback")
    if signs := {sign for sign in last if unicodedata.category(sign) in ("Cc", "Cf", "Cs")}:
        found.append(f"control characters {signs}")
    if not re.search(row.found, last):
        found.append(f"the value found is not named by {row.found!r}")
    if not WANTED.search(last):
        found.append("no value wanted")
    if not DO.search(last.rpartition(", wanted")[2]):
        found.append("nothing to do")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    if written := [name for name in sorted(changed) if not re.search(row.writes, name)]:
        found.append(f"written: {written}")
    return found
