"""Which names of a function are its own: those that it binds, as the compiler decides it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.behaviour.source import Module, Tree, bindings

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
        match node:
            case ast.Global(names=names):
                out |= set(names)
            case ast.Import() | ast.ImportFrom():
                for bound, target, name in bindings(tree, module, node):
                    found.imports.setdefault(bound, []).append((target, name))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.names.add(name)
            case ast.ClassDef(name=name):
                found.names.add(name)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.names.add(name)
            case ast.ExceptHandler(name=str(name)):
                found.names.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                found.names.add(name)
            case ast.MatchMapping(rest=str(name)):
                found.names.add(name)
    found.names -= out
    return found


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
