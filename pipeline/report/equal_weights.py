"""Which checkpoints hold the same weights, byte for byte."""

import filecmp
from collections.abc import Mapping
from pathlib import Path


def groups(folders: Mapping[str, Path]) -> list[list[str]]:
    """Names of two or more checkpoints whose weights are the same bytes, in their order.

    One that experiment.keep_checkpoints has dropped is in no group. Files that differ in size are
    not read, and others only up to the first byte that differs.
    """
    found: list[list[str]] = []
    for name, folder in folders.items():
        if not _files(folder):
            continue
        same = [group for group in found if _equal(folders[group[0]], folder)]
        if same:
            same[0].append(name)
        else:
            found.append([name])
    return [group for group in found if len(group) > 1]


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _equal(one: Path, other: Path) -> bool:
    names = _files(one)
    return names == _files(other) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )
