"""Which checkpoints hold the same bytes, without reading all of them."""

import hashlib
from collections.abc import Hashable, Mapping
from pathlib import Path

from pipeline import digests

BLOCK, BLOCKS = 4096, 64  # bytes, and how many places of a file are looked at before all of it


def groups(folders: Mapping[str, Path]) -> list[list[str]]:
    """Names of two or more checkpoints whose weights are the same bytes, in their order.

    One that experiment.keep has dropped is in no group. Only files that agree in size and in
    BLOCKS places are read whole, so that checkpoints that differ cost next to nothing.
    """
    found = [list(folders)]
    for look in (_sizes, _blocks, _whole):
        found = [
            part
            for group in found
            for part in _split({name: look(folders[name]) for name in group})
        ]
    return found


def _split(seen: Mapping[str, Hashable]) -> list[list[str]]:
    parts: dict[Hashable, list[str]] = {}
    for name, value in seen.items():
        parts.setdefault(value, []).append(name)
    return [part for value, part in parts.items() if value and len(part) > 1]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _sizes(folder: Path) -> Hashable:
    return tuple((path.name, path.stat().st_size) for path in _files(folder))


def _blocks(folder: Path) -> Hashable:
    digest = hashlib.sha256()
    for path in _files(folder):
        last = max(path.stat().st_size - BLOCK, 0)
        with path.open("rb") as file:
            for i in range(BLOCKS):
                file.seek(last * i // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.digest()


def _whole(folder: Path) -> Hashable:
    return tuple(digests.sha256(path) for path in _files(folder))
