"""The one place where a module is loaded by a name that is data: a task, a metric, a scheduler.

What a call may load can be told from its text: the modules of `package` that the cell's variant
chooses (pipeline/code_digest/declared.py), and of each the one `symbol`; or of a file of the
experiment's own (pipeline/core/extensions.py).
"""

import importlib
from typing import Any

from pipeline.core import extensions

FILES = {"rouge1": "rouge"}  # of a variant, where its file has another name


def file_of(variant: str) -> str:
    """The module of a metric, scheduler, objective or task, by the name of its file."""
    return FILES.get(variant, variant.replace("-", "_"))


def chosen(package: str, module: str, symbol: str) -> Any:
    """`symbol` of module `package`.`module`. `package` and `symbol` are plain strings in calls."""
    if extensions.named(module):
        return extensions.load(module, symbol)
    return getattr(importlib.import_module(f"{package}.{module}"), symbol)
