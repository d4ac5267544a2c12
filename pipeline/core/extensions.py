"""An experiment's own metrics, schedulers, tasks and objectives: extensions/ in its folder.

params.yaml names one as `extensions.NAME`, which is extensions/NAME.py. To make a plan its text is
read and nothing of it is run, but for a task's block of params. It is part of the code of the cells
that use it as any module of ours is (pipeline/code_digest).
"""

import ast
import functools
import importlib
import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.errors import UserError

FOLDER = "extensions"  # of the project; also the package that its modules are imported from
NAMED = re.compile(rf"{FOLDER}\.[a-z][a-z0-9_-]*")
NEEDS = {  # by what a file is, the functions and classes that it has to have
    "metric": ("measure",),
    "scheduler": ("positions",),
    "task": ("Prepare", "load"),
    "objective": ("examples", "terms"),
}
READS = ("targets", "forks", "answers")  # tables of a round that an objective may read
TEACHER, ANCHOR = "TEACHER", "ANCHOR"  # set to True by an objective that reads such log-probs


def named(name: Any) -> bool:
    """Whether a value of params.yaml names an extension."""
    return isinstance(name, str) and NAMED.fullmatch(name) is not None


def file(name: str) -> Path:
    """The file of an extension, from the project's folder."""
    return Path(f"{name.replace('-', '_').replace('.', '/')}.py")


def check(key: str, name: str, kind: str) -> None:
    """Raise UserError unless the file of an extension has what one of its kind needs."""
    there, a = _names(name, key), "an" if kind == "objective" else "a"
    for wanted in NEEDS[kind]:
        if wanted not in there:
            raise UserError(
                f"{file(name)}: found no {wanted}, wanted it of {a} {kind}, which {key} names. "
                "Write it; extensions/README.md says what each kind has."
            )
    if kind == "objective":
        reads(name)


def reads(name: str) -> tuple[str, ...]:
    """The tables that an objective reads beside the rollouts: the arguments of its `examples`."""
    found = [x for x in _parsed(name, "train.objective").body if isinstance(x, ast.FunctionDef)]
    taken = [[arg.arg for arg in x.args.args] for x in found if x.name == "examples"]
    names = taken[-1] if taken else []
    if names[:1] != ["rollouts"] or not set(names[1:]) <= set(READS):
        raise UserError(
            f"{file(name)}: examples takes {names}, wanted rollouts and then any of "
            f"{', '.join(READS)}: its arguments say what is read. Rename them."
        )
    return tuple(names[1:])


def says(name: str, flag: str) -> bool:
    """Whether a file has the line `FLAG = True`."""
    return any(
        isinstance(x, ast.Assign) and ast.unparse(x) == f"{flag} = True"
        for x in _parsed(name, "train.objective").body
    )


def load(module: str, symbol: str) -> Any:
    """`symbol` of an extension. Raises UserError where there is none."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    try:
        return getattr(importlib.import_module(module), symbol)
    except (ImportError, SyntaxError, AttributeError) as error:
        raise UserError(
            f"{file(module)}: cannot take {symbol} from it ({error}). Correct it."
        ) from error


class _Finder(MetaPathFinder):
    """Finds the package in the project's folder, whatever else is installed under its name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != FOLDER:
            return None
        folder = os.path.abspath(FOLDER)
        init = os.path.join(folder, "__init__.py")
        if os.path.isfile(init):
            return spec_from_file_location(fullname, init, submodule_search_locations=[folder])
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [folder]
        return spec


_finder = _Finder()


def _names(name: str, key: str) -> set[str]:
    """The names that a file binds at its top level, by definitions, assignments and imports."""
    found = set[str]()
    for one in _parsed(name, key).body:
        if isinstance(one, ast.FunctionDef | ast.ClassDef):
            found.add(one.name)
        elif isinstance(one, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in one.names}
        elif isinstance(one, ast.Assign):
            found |= {x.id for x in one.targets if isinstance(x, ast.Name)}
    return found


def _parsed(name: str, key: str) -> ast.Module:
    path = file(name)
    if not path.is_file():
        raise UserError(
            f"params.yaml: {key}: found {name}, and there is no {path}. Write it, or correct the "
            "name."
        )
    return _tree(path.read_bytes(), str(path))


@functools.lru_cache(64)
def _tree(source: bytes, path: str) -> ast.Module:
    try:
        return ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: found {error}, wanted Python. Correct it.") from error
