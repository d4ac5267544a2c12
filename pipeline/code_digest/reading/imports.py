"""Import statements: what each binds and loads, and what a dotted name is through it."""

import ast
import functools
from collections.abc import Iterator
from typing import Protocol

from pipeline.code_digest.reading.symbols import Module, Unclear


class Names(Protocol):
    """Which modules there are."""

    def has(self, name: str) -> bool: ...

    def own(self, name: str) -> bool: ...


def callee(module: Module, function: ast.expr) -> str:
    """Dotted name of what is called, through the module's imports; empty where it has none."""
    said = dotted(function)
    first, _, rest = said.partition(".")
    if not said or (first not in module.symbols and first not in module.imports):
        return said
    if first in module.symbols:
        return f"{module.name}.{said}"
    target, name = module.imports[first][-1]
    return ".".join(part for part in (target, name, rest) if part)


def dotted(expression: ast.expr) -> str:
    """`a.b.c` of an expression that is no more than that; else empty."""
    return ".".join(parts(expression) or ())


def parts(expression: ast.expr) -> tuple[str, ...] | None:
    """A dotted name by its parts; None of another expression."""
    names = list[str]()
    while isinstance(expression, ast.Attribute):
        names.insert(0, expression.attr)
        expression = expression.value
    return (expression.id, *names) if isinstance(expression, ast.Name) else None


def imported(tree: Names, module: Module, node: ast.Import | ast.ImportFrom) -> None:
    """Note what an import at the top level binds and loads."""
    for bound, target, name in bindings(tree, module, node):
        module.imports.setdefault(bound, []).append((target, name))
    for target in loaded(tree, module, node):
        if tree.own(target):
            module.loads.append(target)
        else:
            module.externals.add(target)


def bindings(
    tree: Names, module: Module, node: ast.Import | ast.ImportFrom
) -> Iterator[tuple[str, str, str | None]]:
    """(name, module, name in it or None for itself) of an import statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            first = alias.name.split(".")[0]
            yield (alias.asname, alias.name, None) if alias.asname else (first, first, None)
        return
    source = _absolute(module, node)
    for alias in node.names:
        if alias.name == "*":
            raise Unclear(f"{module.path}: from {source} import *; name what it takes")
        if source != "__future__":
            whole = f"{source}.{alias.name}"
            target = (whole, None) if tree.has(whole) else (source, alias.name)
            yield (alias.asname or alias.name, *target)


def loaded(tree: Names, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Modules that an import statement loads, without the packages that they lie in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    source = _absolute(module, node)
    if source != "__future__":
        yield source
        for alias in node.names:
            if tree.has(f"{source}.{alias.name}"):
                yield f"{source}.{alias.name}"


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.package]
    return ".".join([*parts, *([node.module] if node.module else [])])


@functools.cache
def parents(name: str) -> tuple[str, ...]:
    """Packages that importing a module loads before it."""
    parts = name.split(".")
    return tuple(".".join(parts[:i]) for i in range(1, len(parts)))
