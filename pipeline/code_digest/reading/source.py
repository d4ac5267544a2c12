"""The source files of our packages, and what each module binds at its top level. Nothing is run."""

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.code_digest.declared import BLOCK_BASES, holds_blocks
from pipeline.code_digest.files import OWN
from pipeline.code_digest.reading.imports import callee, dotted, imported
from pipeline.code_digest.reading.symbols import Module, Symbol

# calls that do nothing but make a value: it counts where it is read
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


class Tree:
    """Files of the packages, and the modules among them as they are asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: paths and contents, as `pipeline.code_digest.files.read` has them."""
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
    module = Module(name, Path(path))
    parsed = ast.parse(tree.files[path], path)
    module.docs = b"__doc__" in tree.files[path]
    statements = list(_flat(parsed.body, module))
    for statement in statements:
        _bind(tree, module, statement)
    for statement in statements:  # what is called may be defined further down
        _run(module, statement)
    if unused := _unused(parsed, module):
        module.effects += [target for target, _ in unused if not tree.own(target)]
    return module


def _unused(parsed: ast.Module, module: Module) -> list[tuple[str, str | None]]:
    """The names that imports at the top level bind and nothing in the module uses."""
    nodes = list(ast.walk(parsed))
    named = {x.id for x in nodes if isinstance(x, ast.Name)}
    named |= {x.value for x in nodes if isinstance(x, ast.Constant) and isinstance(x.value, str)}
    return [one for name, some in module.imports.items() if name not in named for one in some]


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
        imported(tree, module, statement)
        return
    effect = _effect(statement)
    if effect:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported(tree, module, node)
    for name in _bound(statement):
        symbol = module.symbols.setdefault(name, Symbol(module, name))
        symbol.nodes.append(statement)
    if isinstance(statement, ast.ClassDef) and holds_blocks(module.name):
        _without_defaults(module, statement)


def _without_defaults(module: Module, statement: ast.ClassDef) -> None:
    """Make a symbol of its own of a block's defaults: a cell's params are resolved and hold every
    key (`cells.params` sees to it), so that only a call of the class reads one."""
    bases = {x.id for x in statement.bases if isinstance(x, ast.Name)}
    if not bases & (BLOCK_BASES | module.defaults.keys()):
        return
    symbol, body = Symbol(module, f"{statement.name}()"), list[ast.stmt]()
    for base in sorted(bases & (module.defaults.keys() | BLOCK_BASES - {"Params"})):
        symbol.nodes.append(ast.Expr(ast.Call(ast.Name(base, ast.Load()), [], [])))
    for one in statement.body:
        if isinstance(one, ast.AnnAssign) and one.value is not None and not _calls(one.value):
            symbol.nodes.append(ast.Assign(targets=[one.target], value=one.value))
            one = ast.AnnAssign(one.target, one.annotation, ast.Constant("default"), one.simple)
        body.append(one)
    plain = copy.copy(statement)
    plain.body = body
    module.symbols[statement.name].nodes[-1] = plain
    module.defaults[statement.name] = symbol


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
        _always(module, symbols or [Symbol(module, _described(statement), [statement])])
        return
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            if _registers(module, statement):
                _always(module, symbols)
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            if not all(callee(module, x.func) in MAKERS for x in _calls(statement)):
                _always(module, symbols)


def _described(statement: ast.stmt) -> str:
    """The first thing that a statement calls, or which kind of statement it is."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (said := dotted(node.func)):
            return f"{said}()"
    return type(statement).__name__.lower()


def _always(module: Module, symbols: list[Symbol]) -> None:
    module.always += [symbol for symbol in symbols if symbol not in module.always]


def _calls(node: ast.AST) -> list[ast.Call]:
    return [x for x in ast.walk(node) if isinstance(x, ast.Call)]


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
    names: dict[str, None] = {}
    queue: list[ast.AST] = [statement]
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = None
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = None
        if isinstance(node, ast.ExceptHandler) and node.name:
            names[node.name] = None
        queue += ast.iter_child_nodes(node)
    return list(names)


def _registers(module: Module, statement: ast.stmt) -> bool:
    """Whether its definition may do more than bind a name: a decorator, a default, a base."""
    assert isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    for decorator in statement.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if callee(module, call) not in PLAIN:
            return True
    if not isinstance(statement, ast.ClassDef):
        defaults = [*statement.args.defaults, *statement.args.kw_defaults]
        calls = [x for d in defaults if d for x in _calls(d)]
        return any(callee(module, x.func) not in MAKERS for x in calls)
    if any(keyword.arg != "total" for keyword in statement.keywords):
        return True  # a metaclass, or what __init_subclass__ takes
    acts = [x for x in statement.body if not isinstance(x, ast.FunctionDef | ast.AsyncFunctionDef)]
    if any(isinstance(x, ast.Expr) and not isinstance(x.value, ast.Constant) for x in acts):
        return True
    calls = [x for part in acts for x in _calls(part)]
    return any(callee(module, x.func).split(".")[0] in OWN for x in calls)
