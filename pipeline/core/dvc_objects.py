"""DVC's record of the project's files, read without DVC, which takes a second to load.

dvc.lock names each out with the MD5 of its content, or of a folder's listing. The cache has that
content in a file of that name, read-only, and DVC believes the name without reading it again.
"""

import configparser
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core import dag_names
from pipeline.core.errors import UserError

CACHE = "OMNIOPD_DVC_CACHE"  # in the environment of stages: settings may lie outside the project
FOLDER = ".dir"  # how the name of a folder's listing ends
PIECE = 1 << 20  # bytes read at once


class Out(NamedTuple):
    """An out in dvc.lock."""

    oid: str  # MD5, of a folder with FOLDER behind
    cell: str  # the stage that made it, as DVC names it


def md5(path: str | Path) -> str:
    """The MD5 of a file's content, hex. Threads may read side by side."""
    digest = hashlib.md5(usedforsecurity=False)
    file = os.open(path, os.O_RDONLY)
    try:
        while piece := os.read(file, PIECE):
            digest.update(piece)
    finally:
        os.close(file)
    return digest.hexdigest()


def outs() -> dict[str, Out]:
    """Every out of every dvc.lock by its path; of files as DVC 3 hashes them.

    By lines: YAML takes ten times as long.
    """
    by_path: dict[str, Out] = {}
    for lock in dag_names.locks():
        cell = section = path = ""
        plain = False
        for line in lock.read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") and line[2:3] not in (" ", ""):
                cell = dag_names.cell_name(line.strip().rstrip(":"))
            elif line.startswith("    ") and line[4:5].isalpha():
                section = line.strip()
            elif line.startswith("    - path: "):
                path, plain = line[12:].strip("'\""), False
            elif line == "      hash: md5":
                plain = True
            elif line.startswith("      md5: ") and section == "outs:" and plain:
                by_path[path] = Out(line[11:].strip(), cell)
    return by_path


def cache() -> Path:
    """The folder of the cache's objects, as whoever started us has it from DVC, or else by the
    project's own settings."""
    if CACHE in os.environ:
        return Path(os.environ[CACHE])
    config = configparser.ConfigParser(strict=False, interpolation=None)
    config.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    folder = config.get("cache", "dir", fallback="cache")
    return Path(".dvc", folder) / "files" / "md5"


def configured() -> Path:
    """The folder of the cache's objects, as DVC has it from all its settings, the user's too.

    Raises UserError where there is no project, or DVC cannot read its settings.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException

    folder = Path(".dvc").absolute()
    if not folder.is_dir():
        raise UserError(
            f"{folder}: not found, wanted a project of DVC. Run this in the project's folder."
        )
    try:
        set_folder = Config(str(folder))["cache"].get("dir")
    except DvcException as error:
        raise UserError(f"DVC cannot read the project's settings: {error}") from error
    return Path(set_folder or folder / "cache") / "files" / "md5"


def place(folder: Path, oid: str) -> Path:
    return folder / oid[:2] / oid[2:]


def listing(folder: Path, oid: str) -> dict[str, str] | None:
    """MD5 of each file in an out that is a folder, by its path in it; None where the cache at
    `folder` has no whole listing."""
    path = place(folder, oid)
    if not path.is_file() or md5(path) != oid.removesuffix(FOLDER):
        return None
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_bytes())}


def listed(folder: Path) -> bytes:
    """The listing of a folder as DVC writes it into its cache."""
    there = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in there)
    entries = [{"md5": md5(folder / name), "relpath": name} for name in names]
    return json.dumps(entries, sort_keys=True).encode()


def files(folder: Path, outs: dict[str, Out]) -> Iterator[tuple[str, str, str]]:
    """(path, MD5, cell) of every file that outs consist of, there or not. A folder whose listing
    is not in the cache at `folder` is left out."""
    for path, out in outs.items():
        if out.oid.endswith(FOLDER):
            for name, oid in (listing(folder, out.oid) or {}).items():
                yield f"{path}/{name}", oid, out.cell
        else:
            yield path, out.oid, out.cell
