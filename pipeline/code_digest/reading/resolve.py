"""Resolve a name of a module: to a symbol of ours, a module of ours, or a library's."""

from dataclasses import dataclass

from pipeline.code_digest.files import machinery
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.reading.symbols import Module, Symbol

DUNDERS = {"__file__", "__name__", "__doc__", "__path__"}


@dataclass(frozen=True)
class Found:
    """A resolved name: its text without our modules' names, and what it leads to."""

    text: str
    symbols: tuple[Symbol, ...] = ()
    wholes: tuple[str, ...] = ()  # modules of which any name may be meant
    external: str = ""  # dotted, of a library


def follow(
    tree: Tree,
    module: str,
    attributes: tuple[str, ...],
    seen: frozenset[tuple[str, str]] = frozenset(),
) -> list[Found]:
    """`module.a.b`: through re-exports and submodules to what it is. All that it may be."""
    if not tree.own(module) or not tree.has(module):
        dotted = ".".join((module, *attributes))
        return [Found(dotted, external=dotted)]
    if machinery(module):
        return [Found("@machinery")]
    if not attributes:
        return [Found("@module", wholes=(module,))]
    first, rest = attributes[0], attributes[1:]
    if (module, first) in seen:
        return []
    seen |= {(module, first)}
    found, ended = list[Found](), tree.module(module)
    if first in ended.symbols:
        symbol = ended.symbols[first]
        found.append(Found(".".join((f"@{symbol.name}", *rest)), symbols=(symbol,)))
    for target, name in ended.imports.get(first, ()):
        found += follow(tree, target, ((name,) if name else ()) + rest, seen)
    if tree.has(f"{module}.{first}") and not any(x.wholes for x in found):
        found += follow(tree, f"{module}.{first}", rest, seen)
    if not found and first in DUNDERS:
        return [Found(first)]
    return found or [Found(".".join(("@module", *attributes)), wholes=(module,))]


def name(tree: Tree, module: Module, found: str, attributes: tuple[str, ...]) -> list[Found]:
    """A name at the top level of `module`, with attributes; nothing where it binds none."""
    if found not in module.symbols and found not in module.imports:
        return []
    return follow(tree, module.name, (found, *attributes))
