"""The source files of our packages, and what each module binds at its top level. Nothing is run."""

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.behaviour.files import OWN

# calls that do nothing but make a value: in which order they are made is no matter
MAKERS = {
    *("re.compile", "logging.getLogger", "typing.TypeVar", "typing.NewType", "struct.Struct"),
    *("pathlib.Path", "frozenset", "set", "tuple", "dict", "list", "len", "max", "min", "sum"),
    *("range", "sorted", "str", "int", "float", "round", "pydantic.Field", "pydantic.TypeAdapter"),
    *("pydantic.BeforeValidator", "pydantic.AfterValidator", "pydantic.SerializeAsAny"),
    *("pydantic.StringConstraints", "collections.Counter", "functools.partial", "zip", "map"),
}
# decorators that keep no list of what they decorate
PLAIN = {
    *("functools.cache", "functools.lru_cache", "functools.wraps", "functools.total_ordering"),
    *("contextlib.contextmanager", "dataclasses.dataclass", "typing.overload", "typing.final"),
    *("typing.runtime_checkable",),
}


class Unclear(Exception):
    """Code whose reach cannot be told, and what to write instead."""


@dataclass
class Symbol:
    """What one name is bound to at the top level of a module, or a statement that is run there."""

    module: "Module"
    name: str
    nodes: list[ast.stmt] = field(default_factory=list)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass
class Module:
    """A module of ours by its parsed text."""

    name: str
    path: Path
    imports: dict[str, list[tuple[str, str | None]]] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    always: list[Symbol] = field(default_factory=list)  # run wherever the module is loaded
    ordered: list[Symbol] = field(default_factory=list)  # of these, those whose order may matter
    main: Symbol | None = None  # under `if __name__ == "__main__"`
    loads: list[str] = field(default_factory=list)  # ours, when it is imported
    externals: set[str] = field(default_factory=set)  # of others, likewise
    effects: list[str] = field(default_factory=list)  # of these, imported and not used
    docs: bool = False  # its docstrings are read

    @property
    def package(self) -> bool:
        return self.path.name == "__init__.py"


class Tree:
    """Files of the packages, and the modules among them as they are asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: paths and contents, as `pipeline.behaviour.files.read` has them."""
        self.files = files
        self.names = {_module_name(path): path for path in files if path.endswith(".py")}
        self._modules: dict[str, Module] = {}

    def has(self, name: str) -> bool:
        return name in self.names

    def module(self, name: str) -> Module:
        if name not in self._modules:
            self._modules[name] = _module(self, name)
        return self._modules[name]

    def below(self, package: str) -> Iterator[str]:
        """Names of the modules directly in a package."""
        for name in sorted(self.names):
            if name.rpartition(".")[0] == package:
                yield name

    def own(self, name: str) -> bool:
        return name.split(".")[0] in OWN


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _module(tree: Tree, name: str) -> Module:
    path = tree.names[name]
    found = Module(name, Path(path))
    parsed = ast.parse(tree.files[path], path)
    nodes = list(ast.walk(parsed))
    found.docs = "__doc__" in {_names(x) for x in nodes if isinstance(x, ast.Name | ast.Attribute)}
    statements = list(_flat(parsed.body, found))
    for statement in statements:
        _bind(tree, found, statement)
    for statement in statements:  # what is called may be defined further down
        _run(found, statement)
    used = {x.id for x in nodes if isinstance(x, ast.Name)}
    listed = [x.value for x in nodes if isinstance(x, ast.Constant)]
    for bound, targets in found.imports.items():
        if bound not in used and bound not in listed:
            found.effects += [target for target, _ in targets if not tree.own(target)]
    return found


def _flat(body: Iterable[ast.stmt], module: Module) -> Iterator[ast.stmt]:
    """Statements that are run at an import, without those for a type checker or a program."""
    for statement in body:
        if isinstance(statement, ast.If) and _names(statement.test) == "TYPE_CHECKING":
            yield from _flat(statement.orelse, module)
        elif isinstance(statement, ast.If) and _is_main(statement.test):
            module.main = Symbol(module, "__main__", list(statement.body))
            yield from _flat(statement.orelse, module)
        else:
            yield statement


def _names(test: ast.expr) -> str:
    return test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")


def _is_main(test: ast.expr) -> bool:
    left = getattr(test, "left", None)
    return isinstance(left, ast.Name) and left.id == "__name__"


def _bind(tree: Tree, module: Module, statement: ast.stmt) -> None:
    """Note the names that one statement of the top level binds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        _imported(tree, module, statement)
        return
    effect = _effect(statement)
    if effect:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                _imported(tree, module, node)
    for name in _bound(statement):
        symbol = module.symbols.setdefault(name, Symbol(module, name))
        symbol.nodes.append(statement)


def _effect(statement: ast.stmt) -> bool:
    """Whether it is run for what it does, beside the names that it binds."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return False
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            return not _simple(statement)
    return True


def _run(module: Module, statement: ast.stmt) -> None:
    """Note what of one statement counts wherever the module is loaded."""
    symbols = [module.symbols[name] for name in _bound(statement)]
    if _effect(statement):
        _always(module, symbols or [Symbol(module, _described(statement), [statement])], True)
        return
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            if _registers(module, statement):
                _always(module, symbols, True)
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            if made := [x for x in ast.walk(statement) if isinstance(x, ast.Call)]:
                _always(module, symbols, not all(callee(module, x.func) in MAKERS for x in made))


def _described(statement: ast.stmt) -> str:
    """What it calls first, or which kind of statement it is."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (dotted := _dotted(node.func)):
            return f"{dotted}()"
    return type(statement).__name__.lower()


def _always(module: Module, symbols: list[Symbol], ordered: bool) -> None:
    for symbol in symbols:
        if symbol not in module.always:
            module.always.append(symbol)
        if ordered and symbol not in module.ordered:
            module.ordered.append(symbol)


def _simple(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> bool:
    """Whether it binds names alone: one that sets an attribute or an item acts on something."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return all(isinstance(x, ast.Name) for target in targets for x in _leaves(target))


def _leaves(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for one in target.elts:
            yield from _leaves(one)
    elif isinstance(target, ast.Starred):
        yield from _leaves(target.value)
    else:
        yield target


def _bound(statement: ast.stmt) -> list[str]:
    """Names that it binds at this level."""
    found: dict[str, None] = {}
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = None
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
        if isinstance(node, ast.ExceptHandler) and node.name:
            found[node.name] = None
        queue += ast.iter_child_nodes(node)
    return list(found)


def _registers(module: Module, statement: ast.stmt) -> bool:
    """Whether its definition may do more than bind a name: a decorator, a default, a base."""
    assert isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for decorator in statement.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if callee(module, call) not in PLAIN:
            return True
    if not isinstance(statement, ast.ClassDef):
        defaults = [*statement.args.defaults, *statement.args.kw_defaults]
        calls = [x for d in defaults if d for x in ast.walk(d) if isinstance(x, ast.Call)]
        return any(callee(module, x.func) not in MAKERS for x in calls)
    if any(keyword.arg != "total" for keyword in statement.keywords):
        return True  # a metaclass, or what __init_subclass__ takes
    acts = [x for x in statement.body if not isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)]
    if any(isinstance(x, ast.Expr) and not isinstance(x.value, ast.Constant) for x in acts):
        return True
    calls = [x for part in acts for x in ast.walk(part) if isinstance(x, ast.Call)]
    return any(callee(module, x.func).split(".")[0] in OWN for x in calls)


def callee(module: Module, function: ast.expr) -> str:
    """Dotted name of what is called, through the module's imports; empty where it has none."""
    dotted = _dotted(function)
    if not dotted:
        return ""
    first, _, rest = dotted.partition(".")
    if first in module.symbols:
        return f"{module.name}.{dotted}"
    if first not in module.imports:
        return dotted
    target, name = module.imports[first][-1]
    return ".".join(part for part in (target, name, rest) if part)


def _dotted(expression: ast.expr) -> str:
    if isinstance(expression, ast.Name):
        return expression.id
    if isinstance(expression, ast.Attribute) and (before := _dotted(expression.value)):
        return f"{before}.{expression.attr}"
    return ""


def _imported(tree: Tree, module: Module, node: ast.Import | ast.ImportFrom) -> None:
    """Note what an import at the top level binds and loads."""
    for bound, target, name in bindings(tree, module, node):
        module.imports.setdefault(bound, []).append((target, name))
    for target in loaded(tree, module, node):
        if tree.own(target):
            module.loads.append(target)
        else:
            module.externals.add(target)


def bindings(
    tree: Tree, module: Module, node: ast.Import | ast.ImportFrom
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


def loaded(tree: Tree, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
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
