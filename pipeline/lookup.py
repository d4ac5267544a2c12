"""How DVC, inside `omniopd run`, finds a cell's params in plan.yaml."""

import functools
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_params_once() -> None:
    """Let DVC parse plan.yaml once, not for every cell and question, and look keys up.

    DVC's own function searches the whole tree for each key as if it were a pattern.
    """
    from dvc.dependency import param

    plain = param.read_param_file

    @functools.lru_cache(maxsize=4)
    def parsed(fs: Any, path: str, _changed: int) -> Any:
        return plain(fs, path)

    def read(
        fs: Any, path: str, key_paths: list[str] | None = None, flatten: bool = False, **rest: Any
    ) -> Any:
        if not (key_paths and flatten) or rest:
            return plain(fs, path, key_paths, flatten, **rest)
        tree, found = parsed(fs, path, Path(path).stat().st_mtime_ns), {}
        for key in key_paths:
            with suppress(KeyError, TypeError):
                found[key] = functools.reduce(lambda node, part: node[part], key.split("."), tree)
        return found

    param.read_param_file = read
