"""The source files of our packages, and what each module binds at its top level. Nothing is run."""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

OWN = ("pipeline", "stages")
# code that they name is loaded by no stage, or only says in which process it runs
MACHINERY = ("pipeline.behaviour", "pipeline.forkserver", "pipeline.forked")
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
Targets = tuple[tuple[str, str | None], ...]  # modules, each with a name in it or itself


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
    """The packages below `root`: their files by path, read at once, and modules as asked for."""

    def __init__(self, root: Path, files: Mapping[str, bytes] | None = None) -> None:
        self.root = root
        self.files = dict(read(root)) if files is None else dict(files)
        self.names = {_module_name(path): path for path in self.files if path.endswith(".py")}
        self._modules: dict[str, Module] = {}

    def key(self) -> str:
        """Hash of every file's path and content."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

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


def read(root: Path) -> Iterator[tuple[str, bytes]]:
    """Path below `root` and content of each file of the packages."""
    for package in OWN:
        for path in sorted((root / package).rglob("*")):
            if "__pycache__" not in path.parts and path.is_file():
                yield path.relative_to(root).as_posix(), path.read_bytes()


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def machinery(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in MACHINERY)


def _module(tree: Tree, name: str) -> Module:
    path = tree.names[name]
    found = Module(name, Path(path))
    parsed = ast.parse(tree.files[path], path)
    found.docs = any(isinstance(x, ast.Name) and x.id == "__doc__" for x in ast.walk(parsed)) or any(
        isinstance(x, ast.Attribute) and x.attr == "__doc__" for x in ast.walk(parsed)
    )
    for statement in _flat(parsed.body, found):
        _add(tree, found, statement)
    used = {x.id for x in ast.walk(parsed) if isinstance(x, ast.Name)}
    listed = [x.value for x in ast.walk(parsed) if isinstance(x, ast.Constant)]
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


def _add(tree: Tree, module: Module, statement: ast.stmt) -> None:
    """One statement of the top level."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            _imported(tree, module, statement)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            symbol = _bind(module, name, statement)
            if _registers(module, statement):
                _always(module, symbol, ordered=True)
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign() if _simple(statement):
            for name in _bound(statement):
                symbol = _bind(module, name, statement)
                made = [x for x in ast.walk(statement) if isinstance(x, ast.Call)]
                if made:
                    plain = all(callee(module, x.func) in MAKERS for x in made)
                    _always(module, symbol, ordered=not plain)
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            pass  # a docstring
        case _:
            _effect(tree, module, statement)


def _effect(tree: Tree, module: Module, statement: ast.stmt) -> None:
    """A statement that is run for what it does; names that it binds stand for all of it."""
    symbol = Symbol(module, _described(statement), [statement])
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _imported(tree, module, node)
    for name in _bound(statement):
        if name in module.symbols:
            module.symbols[name].nodes.append(statement)
            symbol = module.symbols[name]
        else:
            module.symbols[name] = symbol
    _always(module, symbol, ordered=True)


def _described(statement: ast.stmt) -> str:
    """What it calls first, or which kind of statement it is."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (dotted := _dotted(node.func)):
            return f"{dotted}()"
    return type(statement).__name__.lower()


def _bind(module: Module, name: str, statement: ast.stmt) -> Symbol:
    symbol = module.symbols.setdefault(name, Symbol(module, name))
    symbol.nodes.append(statement)
    return symbol


def _always(module: Module, symbol: Symbol, ordered: bool) -> None:
    if symbol not in module.always:
        module.always.append(symbol)
    if ordered and symbol not in module.ordered:
        module.ordered.append(symbol)


def _simple(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> bool:
    """Whether it binds names alone: one that sets an attribute or an item acts on something."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return all(isinstance(x, _TARGETS) for target in targets for x in _leaves(target))


_TARGETS = (ast.Name,)


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
    return any(
        isinstance(x, ast.Expr) and not isinstance(x.value, ast.Constant) for x in statement.body
    )


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
