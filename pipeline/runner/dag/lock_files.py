"""The dvc.lock files of the project: what DVC knows of each cell that ran, wherever it stands.

Which folder below dag/ a cell's stage lies in depends on which arms and seeds have the cell, so it
may move when an arm comes or goes. Its entry moves with it, to the letter but for the paths that
are other ones now: no cell runs because of where its stage lies. A project whose stages were all in
one dvc.yaml is brought here in the same way.
"""

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.core import dag_names, dvc_objects, yaml_files
from pipeline.core.errors import UserError, short
from pipeline.core.files import replacing
from pipeline.runner.dag import dag_files

REMEDY = "Restore it with `git checkout {path}`, or remove it: what DVC's cache has does not rerun."
OK_TEXT = "dag/ is what params.yaml means\n"  # constant: a new plan reruns nothing by itself
CODE = "code/"
Entry = dict[str, Any]  # cmd, deps and outs, each with path, md5 and size
Locks = dict[Path, dict[str, Entry]]  # file: stage: entry


def read(paths: Iterable[Path] | None = None) -> Locks:
    """Every dvc.lock of the project, or these. Raises UserError unless they are as DVC writes
    them."""
    return {path: _read(path) for path in (dag_names.locks() if paths is None else paths)}


def entries(locks: Locks) -> dict[str, Entry]:
    """DVC's entry of each cell, by its name, and of stage `plan`."""
    return {
        dag_names.cell_name(name): entry for own in locks.values() for name, entry in own.items()
    }


def write(before: Locks, after: Locks) -> None:
    """Bring the files from `before` to `after`; one of no stages goes.

    What is new is written first: killed at any moment, no entry is lost.
    """
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    for path in sorted(changed, key=lambda path: len(before.get(path, ()))):
        if stages := after.get(path):
            with replacing(path) as temporary:
                text = dag_files.as_yaml({"schema": "2.0", "stages": stages})
                temporary.write_text(text, encoding="utf-8")
        else:
            path.unlink(missing_ok=True)


def carried(
    old: Entry, stage: Mapping[str, Any], known: Mapping[str, str], cache: Path
) -> Entry | None:
    """An entry for the stage of the same cell at another place; None where it is of other files.

    `known`: what its new dependencies hold. A lock of code that the old one did not have stays
    out, and DVC finds the cell changed by it. Files of the old entry that are one folder in the
    new one get a listing in `cache`, where DVC's objects lie.
    """
    deps = {dep["path"]: dep for dep in old.get("deps", ())}
    deps |= {path: _described(path, text) for path, text in known.items()}
    found = [deps.get(path) for path in sorted(stage["deps"])]
    missing = [path for path in stage["deps"] if path not in deps]
    outs = _gathered(old.get("outs", ()), stage["outs"], cache)
    if any(not path.startswith(CODE) for path in missing) or set(outs) != set(stage["outs"]):
        return None
    return {
        "cmd": stage["cmd"],
        "deps": [dep for dep in found if dep],
        "outs": [outs[path] for path in sorted(outs)],
    }


def remember(cache: Path, entries: Iterable[Entry]) -> None:
    """Put entries into DVC's run-cache, so that these cells are found there when they come back.

    `cache` is the folder that DVC's objects lie in. An entry without a lock of code is left out.
    """
    for entry in entries:
        if not any(dep["path"].startswith(CODE) for dep in entry["deps"]):
            continue
        asked = {**entry, "outs": [out["path"] for out in entry["outs"]]}
        place = _runs(cache, asked) / _key(entry)
        if not place.is_file():
            _room(place.parent)
            with replacing(place) as temporary:
                temporary.write_text(dag_files.as_yaml(entry), encoding="utf-8")


def remembered(cache: Path, asked: Entry) -> Iterator[Entry]:
    """What the run-cache has of a stage with these `deps`; `asked` has of outs the paths alone."""
    folder = _runs(cache, asked)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):  # it is being written
            continue
        yield yaml_files.mapping(yaml_files.text(path), str(path), "Remove it.", fast=True)


def _room(folder: Path) -> None:
    """Make a folder in the cache with the rights of the one it lies in: a group may share it."""
    if not folder.is_dir():
        _room(folder.parent)
        folder.mkdir(exist_ok=True)
        with suppress(PermissionError):  # another has made it at this moment
            folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))


def _runs(cache: Path, asked: Entry) -> Path:
    key = _key(asked)
    return cache.parents[1] / "runs" / key[:2] / key


def _key(entry: Entry) -> str:
    """As DVC names it: without the sizes, which follow from the content."""
    from dvc.utils import dict_sha256

    return str(dict_sha256(entry, exclude=["size", "nfiles"]))


def _described(path: str, text: str) -> dict[str, Any]:
    data = text.encode()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"path": path, "hash": "md5", "md5": md5, "size": len(data)}


def _gathered(
    outs: Iterable[Mapping[str, Any]], folders: Iterable[str], cache: Path
) -> dict[str, Mapping[str, Any]]:
    """Outs by path, those below one of `folders` as one."""
    found = {out["path"]: out for out in outs}
    for folder in folders:
        inside = {path: out for path, out in found.items() if path.startswith(f"{folder}/")}
        if not inside or any(out["md5"].endswith(dvc_objects.FOLDER) for out in inside.values()):
            continue
        names = sorted((path.removeprefix(f"{folder}/"), out) for path, out in inside.items())
        entries = [{"md5": out["md5"], "relpath": name} for name, out in names]
        text = json.dumps(entries, sort_keys=True)
        md5 = _described(folder, text)["md5"] + dvc_objects.FOLDER
        place = dvc_objects.place(cache, md5)
        if not place.is_file():
            _room(place.parent)
            with replacing(place) as temporary:
                temporary.write_text(text, encoding="utf-8")
        size = sum(out.get("size", 0) for out in inside.values())
        found = {path: out for path, out in found.items() if path not in inside}
        found[folder] = {
            "path": folder,
            "hash": "md5",
            "md5": md5,
            "size": size,
            "nfiles": len(inside),
        }
    return found


def _read(path: Path) -> dict[str, Entry]:
    remedy = REMEDY.format(path=path)
    found = yaml_files.mapping(yaml_files.text(path), str(path), remedy, fast=True)
    stages = found.get("stages") or {}
    if found.get("schema") != "2.0" or not isinstance(stages, dict):
        shown = short({name: found[name] for name in list(found)[:2]})
        raise UserError(f"{path}: found {shown}, wanted schema '2.0' with stages. {remedy}")
    for name, stage in stages.items():
        outs = stage.get("outs", []) if isinstance(stage, dict) else None
        if not isinstance(outs, list) or not all(map(_is_out, outs)):
            wanted = "outs with md5 and a path inside the project"
            shown = short(stage if outs is None else outs, 200)
            raise UserError(f"{path}: {name}: found {shown}, wanted {wanted}. {remedy}")
    return stages


def _is_out(found: Any) -> bool:
    """Whether DVC wrote it; what is pruned is removed, so never a path outside the project."""
    if not isinstance(found, dict) or {str} != {type(found.get("path")), type(found.get("md5"))}:
        return False
    path = Path(found["path"])
    return not path.is_absolute() and ".." not in path.parts
