"""The project of a row: the miniature's params.yaml and plan.yaml, and nothing that ran."""

import functools
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import dag, experiment, plan
from pipeline.behaviour import locks, variants
from tests.project import MINIATURE

TEXT = MINIATURE.read_text(encoding="utf-8")


@functools.cache
def planned() -> str:
    """plan.yaml as `omniopd plan` writes it for the miniature."""
    return dag._text(plan.expand(experiment.load(MINIATURE)))


@functools.cache
def _locks() -> dict[str, str]:
    return locks.texts(variants.of_plan(plan.expand(experiment.load(MINIATURE))).values())


@functools.cache
def _cells() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(planned())["cells"])


def key(group: str) -> str:
    """Of one of its cells."""
    return sorted(_cells()[group])[0]


def replaced(old: str, new: str, count: int = 1) -> str:
    """The miniature's params with a piece of text instead of another."""
    assert old in TEXT, old
    return TEXT.replace(old, new, count)


def put(folder: Path, text: str | bytes = TEXT) -> None:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (folder / "params.yaml").write_bytes(data)
    (folder / "plan.yaml").write_text(planned(), encoding="utf-8")
    for name, text in _locks().items():
        path = folder / locks.path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def pattern(text: str) -> str:
    return re.escape(text)
