"""Settings with a new name. The old one is still read for one release, with a warning.

Cells keep the old name for good: a cell is named after its params, so a new name in them would be
a new cell, trained and bought again. The field says both names (`renamed`); the rest follows from
that. Settings of a block alone, not of what stands in it or in prepare, which writes itself.
"""

import functools
import logging
import re
from collections.abc import Iterable
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from pipeline.core.errors import UserError

Names = dict[str, dict[str, str]]  # of each block: new names by old ones
# settings that are no more, of blocks: why. Read for one release too, and then unknown
GONE = {
    "runtime": {
        "engine_entropies": "the engine's entropies are those of the full vocabulary now, and "
        "run.json always says how many forks they put elsewhere"
    }
}
SET = re.compile(r"([+~]*)([\w.-]+)(.*)", re.DOTALL)  # as Hydra takes it: `train.beta=0.2`
log = logging.getLogger("omniopd")


def renamed(new: str, old: str) -> Any:
    """The field `new`, which was `old`: both are read, cells are written with `old`."""
    return Field(validation_alias=AliasChoices(new, old), serialization_alias=old)


def old_names(model: type[BaseModel]) -> dict[str, str]:
    """The new names of the model's renamed fields by their old ones."""
    fields = model.model_fields.items()
    return {str(x.serialization_alias): name for name, x in fields if x.serialization_alias}


def in_cells(model: type[BaseModel]) -> set[str]:
    """The names of the model's fields as cells have them."""
    return {x.serialization_alias or name for name, x in model.model_fields.items()}


def names(file: type[BaseModel]) -> Names:
    """The renamed settings of each block of params.yaml."""
    models = {block: field.annotation for block, field in file.model_fields.items()}
    blocks = {b: m for b, m in models.items() if isinstance(m, type) and issubclass(m, BaseModel)}
    return {block: old for block, model in blocks.items() if (old := old_names(model))}


def current(values: dict[str, Any], known: Names, where: str) -> dict[str, Any]:
    """`values` of params.yaml, overrides of arms too, with new names for old ones.

    Warns once of each old name. Raises UserError where a setting has both.
    """
    found, arms = _current(_without(values), known, where, ""), values.get("arms")
    if isinstance(arms, dict):
        found["arms"] = {
            arm: _current(over, known, where, f"arms.{arm}.") if isinstance(over, dict) else over
            for arm, over in arms.items()
        }
    return found


def _without(values: dict[str, Any]) -> dict[str, Any]:
    """`values` but for settings that are no more; warns once of each."""
    found = dict(values)
    for block, gone in GONE.items():
        own = values.get(block)
        if isinstance(own, dict):
            for name in gone.keys() & own.keys():
                _warn_gone(f"{block}.{name}", gone[name])
            found[block] = {name: value for name, value in own.items() if name not in gone}
    return found


def _current(blocks: dict[str, Any], known: Names, where: str, above: str) -> dict[str, Any]:
    found = dict(blocks)
    for block, new_names in known.items():
        own = blocks.get(block)
        if not isinstance(own, dict):
            continue
        for old, new in new_names.items():
            if old in own:
                _warn(f"{block}.{old}", f"{block}.{new}")
            if old in own and new in own:
                raise UserError(
                    f"{where}: found {above}{block}.{old} and {above}{block}.{new}, two names of "
                    f"one setting, wanted the new one alone. Remove {old}."
                )
        found[block] = {new_names.get(name, name): value for name, value in own.items()}
    return found


def key(name: str, known: Names) -> str:
    """A key with a dot, `block.setting`, under the name of today; warns of an old one."""
    block, _, setting = name.partition(".")
    new = known.get(block, {}).get(setting)
    if new is None:
        return name
    _warn(name, f"{block}.{new}")
    return f"{block}.{new}"


def as_written(sets: Iterable[str], values: dict[str, Any], known: Names) -> list[str]:
    """`KEY=VALUE` of a command line, each under the name of its key that `values` have."""
    return [_as_written(one, values, known) for one in sets]


def _as_written(one: str, values: dict[str, Any], known: Names) -> str:
    parts = SET.fullmatch(one)
    if parts is None:
        return one
    sign, key, rest = parts.groups()
    path = key.split(".")
    above = 2 if path[0] == "arms" else 0
    if len(path) != above + 2:
        return one
    block, name = path[above:]
    new_names = known.get(block, {})
    if name in new_names:
        _warn(f"{block}.{name}", f"{block}.{new_names[name]}")
    for old, new in new_names.items():
        other = {old: new, new: old}.get(name)
        if other and _holds(values, [*path[:-1], other]) and not _holds(values, path):
            return f"{sign}{'.'.join([*path[:-1], other])}{rest}"
    return one


def _holds(values: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


@functools.cache
def _warn(old: str, new: str) -> None:
    """Once of each key, however often params.yaml is read."""
    log.warning(f"{old} is {new} now. Rename it: the next release no longer reads {old}.")


@functools.cache
def _warn_gone(key: str, why: str) -> None:
    log.warning(f"{key} is no setting any more: {why}. Remove it: the next release refuses it.")
