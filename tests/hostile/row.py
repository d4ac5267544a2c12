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

from pipeline.commands import app
from pipeline.core.errors import LONGEST, STATUS

NOBODY = 65534  # a user who owns nothing
# what to do: a verb in the imperative, or a command
DO = re.compile(
    r"`[^`]+`|\b(add|ask|change|choose|convert|copy|correct|define|download|enlarge|export|fix|free|give"
    r"|import|install|leave|lower|make|move|name|pass|put|quote|raise|read|remove|rename|"
    r"reorder|rerun|resolve|restore|run|save|set|shorten|take|train|try|unset|use|wait|write)\b",
    re.I,
)
WANTED = re.compile(
    r"\b(wanted|want|wants|must|needs?|unknown key|missing|one of|there are|defined are|are forked|"
    r"at least|at most|takes|the right store|is not (the|that)|there is no|not a|no such|not set|not found|neither)\b",
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
    main = app.main if program == "omniopd" else importlib.import_module(program).main
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
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    written = [name for name in sorted(changed) if not re.search(row.writes, name)]
    if not row.found:
        return [] if done.status in (0, None) else [f"status {done.status}, wanted 0"]
    *others, last = done.errors.strip().splitlines() or [""]
    hidden = {sign for sign in last if unicodedata.category(sign) in ("Cc", "Cf", "Cs")}
    holds = {
        f"status {done.status}, wanted {STATUS}": done.status == STATUS,
        "no error on the last line": last.startswith("error: "),
        f"{len(last)} characters": len(last) <= LONGEST + len("error: "),
        f"lines before it: {others}": not others,
        f"hidden characters {hidden}": not hidden,
        f"the value found is not named by {row.found!r}": bool(re.search(row.found, last)),
        "no value wanted": bool(WANTED.search(last)),
        "nothing to do": bool(DO.search(last.rpartition(", wanted")[2])),
        f"written: {written}": not written,
    }
    return [said for said, held in holds.items() if not held]
