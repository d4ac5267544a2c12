"""Which names of a function are its own: those that it binds, as the compiler decides it."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.code_digest.reading import resolve
from pipeline.code_digest.reading.imports import bindings
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.reading.symbols import Module

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass
class Scope:
    """Names of one function or comprehension."""

    names: set[str] = field(default_factory=set)
    imports: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)


def of_function(tree: Tree, module: Module, function: Function) -> Scope:
    """Arguments, and what the body binds and does not say to be global."""
    found, out = Scope(), set[str]()
    args = function.args
    for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg):
        if arg is not None:
            found.names.add(arg.arg)
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    for node in _inside(body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for bound, target, name in bindings(tree, module, node):
                found.imports.setdefault(bound, []).append((target, name))
        elif isinstance(node, ast.Global):
            out |= set(node.names)
        else:
            found.names |= _binds(node)
    found.names -= out
    return found


def _binds(node: ast.AST) -> set[str]:
    """Names that a node itself binds where it stands."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Name(ctx=ast.Store() | ast.Del()):
            return {node.id}
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            return {node.name} if node.name else set()
        case ast.MatchMapping():
            return {node.rest} if node.rest else set()
    return set()


def of_comprehension(comprehension: Comprehension) -> Scope:
    found = Scope()
    for part in comprehension.generators:
        for node in ast.walk(part.target):
            if isinstance(node, ast.Name):
                found.names.add(node.id)
    return found


def _inside(body: "list[ast.stmt] | list[ast.expr]") -> Iterator[ast.AST]:
    """Nodes of a body that bind in its scope: not those of functions and classes inside."""
    queue: list[ast.AST] = list(body)
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            queue += node.decorator_list
        elif isinstance(node, Comprehension):
            queue += [x for x in ast.walk(node) if isinstance(x, ast.NamedExpr)]
        elif not isinstance(node, ast.Lambda):
            queue += ast.iter_child_nodes(node)


def look_up(
    tree: Tree, module: Module, stack: Sequence[Scope], names: tuple[str, ...]
) -> list[tuple[resolve.Found, str]]:
    """All that a dotted name may stand for inside the scopes of `stack`, each with the module that
    an import inside the function takes it from; nothing of a local or built-in one."""
    first, rest = names[0], names[1:]
    for scope in reversed(stack):
        if targets := scope.imports.get(first):
            found = list[tuple[resolve.Found, str]]()
            for target, of in targets:
                lazy = _longest(tree, target, (of,) if of else rest)
                ends = resolve.follow(tree, target, ((of,) if of else ()) + rest)
                found += [(one, lazy) for one in ends]
            return found
        if first in scope.names:
            return []
    return [(one, "") for one in resolve.name(tree, module, first, rest)]


def _longest(tree: Tree, module: str, names: tuple[str, ...]) -> str:
    """The module that is loaded for `module.a.b`: as far down as there are modules."""
    for name in names:
        if not tree.has(f"{module}.{name}"):
            break
        module = f"{module}.{name}"
    return module
