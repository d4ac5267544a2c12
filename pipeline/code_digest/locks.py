"""code/VARIANT.lock: what the cells of a variant run. Written by `omniopd plan`, and committed.

A cell depends on its variant's lock and on no file of code. Each stage compares the lock with the
code that it is about to run, before it reads anything.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import diskcache
import platformdirs

from pipeline.code_digest import files
from pipeline.code_digest.code import CALLS, Code
from pipeline.code_digest.variants import Variant
from pipeline.core.errors import UserError
from pipeline.core.files import replacing

FOLDER = Path("code")
HEADER = "# What cells of this variant run. Made by `omniopd plan`; commit it, do not edit it.\n"
LIMIT = 1 << 28  # bytes of digests that are remembered


def path(variant: str) -> Path:
    return FOLDER / f"{variant}.lock"


def texts(variants: Iterable[Variant]) -> dict[str, str]:
    """The text that each lock is to hold for the code of this process. Raises UserError."""
    return {name: HEADER + code.text() for name, code in codes(variants).items()}


def codes(variants: Iterable[Variant]) -> dict[str, Code]:
    """The code of variants, as this process would run it. Raises UserError."""
    contents = files.read(files.root())
    wanted, key = list(variants), files.key(contents)
    made = _known(key, wanted)
    if rest := [one for one in wanted if one.name not in made]:
        from pipeline.code_digest.reading import digest
        from pipeline.code_digest.reading.source import Tree
        from pipeline.code_digest.reading.symbols import Unclear

        try:
            more = digest.codes(Tree(contents), rest)
        except (Unclear, SyntaxError) as error:
            raise UserError(f"code of {files.root()}: {error}") from error
        _remember(key, more)
        made |= more
    return made


def write(variants: Mapping[str, Variant], root: Path = Path()) -> dict[str, str]:
    """Write the locks below `root` that are other than they were, and remove those of no variant.

    What was there of both, by the variant's name. Raises UserError.
    """
    wanted, before = texts(variants.values()), dict[str, str]()
    folder = root / FOLDER
    for left in folder.glob("*.lock"):
        held = left.read_text(encoding="utf-8")
        if held != wanted.get(left.stem):
            before[left.stem] = held
        if left.stem not in wanted:
            left.unlink()
    for name, text in wanted.items():
        place = root / path(name)
        if name in before or not place.is_file():
            with replacing(place) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return before


def read(variant: str) -> str | None:
    """The lock as it is on disk; None where there is none."""
    try:
        return path(variant).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def check(variants: Iterable[Variant]) -> dict[str, Code]:
    """The code of variants. Raises UserError unless their locks say what it does."""
    made = codes(variants)
    for name, code in made.items():
        if (held := read(name)) != (text := HEADER + code.text()):
            state = "does not exist" if held is None else differs(held, text)
            raise UserError(
                f"{path(name)} {state}. It has to say what the code in {files.root()} does. Run "
                "`omniopd plan`, then `dvc repro`; `omniopd why` says what changed."
            )
    return made


def differs(found: str, wanted: str) -> str:
    old, new = found.splitlines(), wanted.splitlines()
    lines = [line for line in new if line not in old] or [line for line in old if line not in new]
    names = list(dict.fromkeys(line.rpartition(" ")[0] for line in lines))
    names = [name for name in names if name != CALLS] or names
    most = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"is of other code: {most or 'its lines'} changed since"


def _known(key: str, variants: Iterable[Variant]) -> dict[str, Code]:
    """Digests that are remembered, by the hash `key` of every file and the variant's name."""
    try:
        with _memory() as known:
            found = {one.name: known.get(f"{key}-{one.name}") for one in variants}
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything; then they are made anew
        return {}
    return {name: code for name, code in found.items() if isinstance(code, Code)}


def _remember(key: str, made: Mapping[str, Code]) -> None:
    with suppress(OSError, sqlite3.Error, diskcache.Timeout), _memory() as known:
        for name, code in made.items():
            known[f"{key}-{name}"] = code


def _memory() -> diskcache.Cache:
    return diskcache.Cache(str(platformdirs.user_cache_path("omniopd") / "code"), size_limit=LIMIT)
