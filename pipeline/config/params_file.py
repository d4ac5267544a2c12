"""params.yaml as stages read it: settings that change how a stage works, never what it computes."""

import functools
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.config.params import Params, Runtime, explained
from pipeline.config.renamed import old_names
from pipeline.core import yaml_files
from pipeline.core.errors import UserError, short

PARAMS = Path("params.yaml")
M = TypeVar("M", bound=Params)
V = TypeVar("V")


def untracked(block: str) -> dict[str, Any]:
    """A block of params.yaml whose settings change how a stage works, never what it computes."""
    if not PARAMS.is_file():
        return {}
    found = _params(yaml_files.text(PARAMS)).get(block) or {}
    if not isinstance(found, dict):
        raise UserError(
            f"{PARAMS}: {block}: found {short(found)}, wanted its settings. Correct it."
        )
    return dict(found)


@functools.lru_cache(1)
def _params(text: str) -> dict[str, Any]:
    """params.yaml; a stage asks for several of its blocks, a cell of steps for many."""
    found = yaml_files.parsed(text, str(PARAMS))
    if not isinstance(found, dict):
        raise UserError(f"{PARAMS}: found {short(found)}, wanted blocks of settings. Restore it.")
    return found


def free(block: str, model: type[M]) -> M:
    """Those settings of a block that `model` names. Raises UserError for a wrong one."""
    found = untracked(block)
    known = {*model.model_fields, *old_names(model)}
    values = {name: value for name, value in found.items() if name in known}
    return parsed(block, TypeAdapter(model), values)


def parsed(block: str, model: TypeAdapter[V], values: dict[str, Any]) -> V:
    """`values` of params.yaml as `model`. Raises UserError naming the key."""
    try:
        return model.validate_json(json.dumps(values))
    except ValidationError as error:
        raise UserError(f"{PARAMS}: {explained(error.errors()[0], block)}") from error


def runtime() -> Runtime:
    return free("runtime", Runtime)


# of this process, no setting: whether policies that nobody trains stay for the stages that follow
keep_frozen = False
