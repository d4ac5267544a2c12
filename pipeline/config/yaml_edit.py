"""Values of a YAML text set where they stand, so that comments, order and layout stay."""

from collections.abc import Iterator
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node


def edited(text: str, values: dict[str, Any]) -> str | None:
    """`text` with other `values` under the same keys; None if that takes more than replacing.

    Only what is written on one line, as `0.1` or `[a, b]`, is replaced.
    """
    yaml = YAML(typ="safe", pure=True)
    found = list(_changes(yaml.compose(text), yaml.load(text), values))
    for node, value in reversed(found):
        if node is None or (getattr(node, "flow_style", True) is False):
            return None
        text = text[: node.start_mark.index] + _flow(value) + text[node.end_mark.index :]
    return text if yaml.load(text) == values else None


def added(text: str, values: dict[str, Any], block: str, name: str, comment: str) -> str | None:
    """`text` with an entry more in a block of its own lines, or with that block at its end, so that
    it has `values`; None if that takes more than a line.
    """
    yaml = YAML(typ="safe", pure=True)
    line = f"{name}: {_flow(values[block][name])}\n"
    text = text if text.endswith("\n") else f"{text}\n"
    node = next((v for k, v in yaml.compose(text).value if k.value == block), None)
    if node is None:
        text = f"{text}\n{f'{block}:':<30} # {comment}\n  {line}"
    elif isinstance(node, MappingNode) and node.flow_style is False:
        lines, at = text.splitlines(keepends=True), node.start_mark  # of its first entry
        text = "".join([*lines[: at.line], " " * at.column + line, *lines[at.line :]])
    else:
        return None
    return text if yaml.load(text) == values else None


def flat(data: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of nested mappings with dots between, and what is no mapping."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _changes(node: Node, old: Any, new: Any) -> Iterator[tuple[Node | None, Any]]:
    """Nodes of the text, in its order, and what is to stand there; None for what has no place."""
    if not (isinstance(old, dict) and isinstance(new, dict) and isinstance(node, MappingNode)):
        if old != new or type(old) is not type(new):
            yield node, new
        return
    if old.keys() != new.keys():
        yield None, new
        return
    for key, value in node.value:
        yield from _changes(value, old[key.value], new[key.value])


def _flow(value: Any) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, 4096
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n").strip()
