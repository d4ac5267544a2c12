"""The project of a row: the miniature's params.yaml and dag/, and nothing that ran."""

import functools
import re
import shutil
from pathlib import Path
from typing import Any

from pipeline.code_digest import locks, variants
from pipeline.plan import expand, experiment
from pipeline.runner.dag import dag_files
from tests.project import MINIATURE, ROOT

TEXT = MINIATURE.read_text(encoding="utf-8")


@functools.cache
def planned() -> dict[Path, str]:
    """The files of dag/ as `omniopd plan` writes them for the miniature."""
    return dict(dag_files.texts(expand.expand(experiment.load(MINIATURE))))


@functools.cache
def _locks() -> dict[str, str]:
    return locks.texts(variants.of_plan(expand.expand(experiment.load(MINIATURE))).values())


@functools.cache
def _cells() -> dict[str, Any]:
    return dict(expand.expand(experiment.load(MINIATURE))["cells"])


def key(group: str) -> str:
    """Of one of its cells."""
    return sorted(_cells()[group])[0]


def file(group: str) -> Path:
    """Of one of its cells."""
    return next(path for path in planned() if path.stem == key(group))


def replaced(old: str, new: str, count: int = 1) -> str:
    """The miniature's params with a piece of text instead of another."""
    assert old in TEXT, old
    return TEXT.replace(old, new, count)


def put(folder: Path, params: str | bytes = TEXT) -> None:
    data = params if isinstance(params, bytes) else params.encode("utf-8", "surrogatepass")
    (folder / "params.yaml").write_bytes(data)
    (folder / ".dvc").mkdir(exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for path, text in planned().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    for name, text in _locks().items():
        path = folder / locks.path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pattern(text: str) -> str:
    return re.escape(text)
