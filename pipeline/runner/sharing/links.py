"""Checkpoints in a shared cache: in the folder as links, so that a disk holds each once.

DVC's `cache.type` is one for all outs. Tables are what people open with tools of their own, so a
shared cache is set to reflinks or copies, and checkpoints, which are large and which nobody edits,
are linked afterwards. Hard links first: they outlive an object's removal. The kernel allows none to
a file of another user, there it is a symbolic link.
"""

import configparser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runner import retention
from pipeline.stage.cells import log

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

REFLINK = "reflink"
KINDS = [REFLINK, "hardlink", "symlink"]  # of links
TABLES = [REFLINK, "copy"]  # `cache.type` of a shared cache
GROUP = "group"  # `cache.shared`


def shared() -> bool:
    """Whether the project in this folder uses a cache that its group may write."""
    settings = configparser.ConfigParser(strict=False, interpolation=None)
    settings.read([".dvc/config", ".dvc/config.local"], encoding="utf-8")
    return settings.get("cache", "shared", fallback="") == GROUP


def settle() -> None:
    """Link what is a copy, where the cache is shared."""
    if shared():
        from dvc.repo import Repo

        if count := link(Repo(_wait_for_lock=True)):
            log.info(f"{count} checkpoints and moments are links into the shared cache")


def link(repo: "Repo") -> int:
    """Link checkpoints and moments that are copies of what the cache has; how many outs that was.

    One that differs from what dvc.lock says stays as it is.
    """
    odb = repo.cache.local
    linked = 0
    kinds = possible(Path(odb.path), Path(repo.tmp_dir))
    if REFLINK in kinds or not kinds:  # then every copy is a reflink already
        return 0
    with repo.lock, _types(odb, kinds):
        for stage in repo.index.stages:
            for out in stage.outs:
                if _weighty(out) and _copied(out) and not (out.changed_checksum() or _gone(out)):
                    out.checkout(relink=True, force=True)
                    linked += not _copied(out)
    return linked


def possible(cache: Path, folder: Path) -> list[str]:
    """Kinds of links that can be made from a folder to files in the cache."""
    from dvc.fs import localfs
    from dvc_objects.fs.generic import test_links

    return list(map(str, test_links(KINDS, localfs, str(cache), localfs, str(folder / "one"))))


@contextmanager
def _types(odb: Any, kinds: list[str]) -> Iterator[None]:
    before, odb.cache_types = odb.cache_types, kinds
    try:
        yield
    finally:
        odb.cache_types = before


def _weighty(out: "Output") -> bool:
    return Path(out.fs_path).name in retention.WEIGHTS


def _gone(out: "Output") -> bool:
    return bool(out.changed_cache())


def _copied(out: "Output") -> bool:
    """Whether its largest file is there and has its bytes for itself."""
    path = Path(out.fs_path)
    files = [one for one in (path, *path.rglob("*")) if one.is_file()]
    if not files:
        return False
    largest = max(files, key=lambda one: one.stat().st_size)
    return not largest.is_symlink() and largest.stat().st_nlink == 1
