"""A symbol's syntax tree as text, and what it refers to.

Left out is what cannot change behaviour: comments, formatting, docstrings, annotations of
signatures. A name of ours that was imported is written without the module that it comes from. The
text is the same under every version of Python: `ast.dump` is not.
"""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.code_digest.declared import CHOICE
from pipeline.code_digest.files import OWN
from pipeline.code_digest.reading import resolve, scopes
from pipeline.code_digest.reading.imports import callee, loaded, parts
from pipeline.code_digest.reading.source import PLAIN, Tree
from pipeline.code_digest.reading.symbols import Edge, Module, Symbol, Written

# decorators that do not read the annotations of what they decorate
UNREAD = PLAIN | {"property", "staticmethod", "classmethod", "functools.cached_property"}
SKIPPED = {"ctx", "kind", "type_comment", "type_ignores", "simple"}
# what may reach anything, so that where it leads is written down in `declared`
DYNAMIC = {
    *("runpy.run_module", "runpy.run_path", "exec", "eval"),
    *("importlib.util.spec_from_file_location", "pickle.loads", "pickle.load"),
}
LISTS = {"globals", "vars", "locals"}  # of names, called without an argument
BEGINNINGS = tuple(f"{name}." for name in OWN)
READERS = {"importlib.resources.files", "jinja2.PackageLoader", "pkgutil.get_data"}


def write(tree: Tree, symbol: Symbol) -> Written:
    writer = _Writer(tree, symbol)
    text = "".join(writer.body(symbol.nodes))
    writer.finish()
    writer.found.hash = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return writer.found


def plain(source: bytes, path: str) -> str:
    """Hash of a program that is no module of ours to import, by the same text."""
    module = Module("", Path(path))
    return write(Tree({}), Symbol(module, "", ast.parse(source, path).body)).hash


class _Writer:
    def __init__(self, tree: Tree, symbol: Symbol) -> None:
        self.tree, self.module, self.symbol = tree, symbol.module, symbol
        self.scopes: list[scopes.Scope] = []
        self.found = Written()
        self.constants: list[str] = []
        self.reads_files = self.reads_package = self.in_class = False

    @functools.cached_property
    def used(self) -> set[str]:
        """Every name in the symbol."""
        nodes = (x for node in self.symbol.nodes for x in ast.walk(node))
        return {x.id for x in nodes if isinstance(x, ast.Name)}

    def body(self, statements: list[ast.stmt]) -> list[str]:
        """Statements without their docstring and without `pass`."""
        first, kept = True, []
        for one in statements:
            constant = isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)
            if isinstance(one, ast.Pass) or (constant and not (first and self.module.docs)):
                first = False
                continue
            first = False
            kept.append(self.node(one))
        return kept

    def node(self, node: Any) -> str:
        if isinstance(node, list):
            return "[" + " ".join(map(self.node, node)) + "]"
        if not isinstance(node, ast.AST):  # a name, a number of the grammar, or nothing
            return repr(node)
        written: Callable[[Any], str] = getattr(self, type(node).__name__, self.generic)
        return written(node)

    def generic(self, node: ast.AST) -> str:
        said = [type(node).__name__]
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if name in SKIPPED or value is None or value == []:
                continue
            if name in ("body", "orelse", "finalbody") and isinstance(value, list):
                said.append(f"{name}=[{' '.join(self.body(value))}]")
            else:
                said.append(f"{name}={self.node(value)}")
        return f"({' '.join(said)})"

    @contextmanager
    def scope(self, found: scopes.Scope) -> Iterator[None]:
        self.scopes.append(found)
        yield
        self.scopes.pop()

    def FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        decorators = self.node(node.decorator_list)
        calls = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
        read = any(callee(self.module, call) not in UNREAD for call in calls)
        defaults = self.node([*node.args.defaults, *node.args.kw_defaults])
        before, self.in_class = self.in_class, False
        returns = self.node(node.returns) if read else ""
        arguments = self.arguments(node.args, read)
        types = self.node(getattr(node, "type_params", []))
        with self.scope(scopes.of_function(self.tree, self.module, node)):
            body = " ".join(self.body(node.body))
        self.in_class = before
        kind = type(node).__name__
        return (
            f"({kind} {node.name} {decorators} {arguments} {defaults} {returns} {types} [{body}])"
        )

    def arguments(self, args: ast.arguments, annotated: bool) -> str:
        def one(arg: ast.arg | None) -> str:
            if arg is None:
                return "-"
            return arg.arg + (f":{self.node(arg.annotation)}" if annotated else "")

        groups = (args.posonlyargs, args.args, [args.vararg], args.kwonlyargs, [args.kwarg])
        return "(" + "/".join(",".join(map(one, group)) for group in groups) + ")"

    AsyncFunctionDef = FunctionDef

    def Lambda(self, node: ast.Lambda) -> str:
        defaults = self.node([*node.args.defaults, *node.args.kw_defaults])
        with self.scope(scopes.of_function(self.tree, self.module, node)):
            return f"(Lambda {self.arguments(node.args, False)} {defaults} {self.node(node.body)})"

    def ListComp(self, node: scopes.Comprehension) -> str:
        first = self.node(node.generators[0].iter)  # which is looked up outside
        with self.scope(scopes.of_comprehension(node)):
            return f"({first} {self.generic(node)})"

    SetComp = DictComp = GeneratorExp = ListComp

    def ClassDef(self, node: ast.ClassDef) -> str:
        head = [self.node(x) for x in (node.decorator_list, node.bases, node.keywords)]
        types = self.node(getattr(node, "type_params", []))
        before, self.in_class = self.in_class, True
        body = " ".join(self.body(node.body))
        self.in_class = before
        return f"(ClassDef {node.name} {' '.join(head)} {types} [{body}])"

    def AnnAssign(self, node: ast.AnnAssign) -> str:
        """The annotation counts in a class and at the top level; a function never evaluates it."""
        if self.scopes and not self.in_class:
            if node.value is None:
                return f"(declares {self.node(node.target)})"
            return self.generic(ast.Assign(targets=[node.target], value=node.value))
        for x in ast.walk(node.annotation):  # a name in quotes is looked up, too
            if isinstance(x, ast.Constant) and isinstance(x.value, str):
                self.quoted(x.value)
        return self.generic(node)

    def quoted(self, annotation: str) -> None:
        try:
            self.node(ast.parse(annotation, mode="eval").body)
        except SyntaxError:
            return

    def Import(self, node: ast.Import | ast.ImportFrom) -> str:
        """The text of an import inside a function; names that are used have their own text."""
        kept = []
        for name in loaded(self.tree, self.module, node):
            if self.tree.own(name):
                self.found.loads.append(name)
            else:
                self.found.externals.add(name)
                bound = {alias.asname or alias.name.split(".")[0] for alias in node.names}
                kept += [] if bound & self.used else [name]
        return f"(import {' '.join(kept)})" if kept else ""

    ImportFrom = Import

    def Name(self, node: ast.Name | ast.Attribute) -> str:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and self.in_class:
            return node.id  # a field
        names = parts(node)
        if names is None:
            assert isinstance(node, ast.Attribute)
            return f"{self.node(node.value)}.{node.attr}"
        dotted = ".".join(names)
        found = self.look_up(names)
        if not found:
            self.special(dotted)
            return dotted
        for one, lazy in found:
            if one.external:
                self.special(one.external)
                self.found.externals.add(one.external)
            if one.symbols or one.wholes:
                self.found.edges.append(Edge(one.symbols, one.wholes, lazy))
        return "|".join(dict.fromkeys(one.text for one, _ in found))

    Attribute = Name

    def look_up(self, names: tuple[str, ...]) -> list[tuple[resolve.Found, str]]:
        return scopes.look_up(self.tree, self.module, self.scopes, names)

    def special(self, dotted: str) -> None:
        """Names that read files, or that lead where no text says."""
        self.reads_files |= dotted == "__file__"
        self.reads_package |= dotted in READERS
        if dotted in DYNAMIC or dotted.endswith(".__subclasses__"):
            self.found.unclear.append(dotted)

    def Constant(self, node: ast.Constant) -> str:
        value = node.value
        if isinstance(value, str):
            self.constants.append(value)
            if "." in value and self.tree.own(value) and self.tree.has(value):
                self.found.started.append(value)
                return "@module"
        return f"{type(value).__name__}:{value!r}"

    def JoinedStr(self, node: ast.JoinedStr) -> str:
        """An f-string; versions of Python cut its constant parts differently."""
        parts, text = list[str](), ""
        for one in node.values:
            if isinstance(one, ast.Constant):
                text += str(one.value)
                continue
            parts += [repr(text)] if text else []
            parts.append(self.node(one))
            text = ""
        parts += [repr(text)] if text else []
        first = node.values[0] if node.values else None
        if isinstance(first, ast.Constant) and str(first.value).startswith(
            ("pipeline.", "stages.")
        ):
            self.found.unclear.append(f"f{str(first.value)!r}")
        return f"(f {' '.join(parts)})"

    def Call(self, node: ast.Call) -> str:
        """The text of a call; one that loads a module by its name says what it may load."""
        self.makes(node.func)
        match self.loader(node.func), node.args:
            case "", []:
                if isinstance(node.func, ast.Name) and node.func.id in LISTS:
                    self.found.edges.append(Edge(wholes=(self.module.name,)))
            case "", _:
                pass
            case "chosen", [ast.Constant(value=str(package)), by, ast.Constant(value=str(symbol))]:
                self.found.choices.append((package, symbol))
                return f"({self.node(node.func)} {self.node(by)} {symbol!r})"
            case "import_module", [ast.Constant(value=str(module)), *_]:
                if not self.tree.own(module):  # ours count by the string that names them
                    self.found.externals.add(module)
            case "import_module", [ast.JoinedStr(values=[ast.Constant(value=str(package)), *_])]:
                self.found.choices.append((package.rstrip("."), ""))  # as before there was CHOICE
                return f"(import {package!r})"
            case name, _:
                self.found.unclear.append(f"{name}() of what is no plain string")
        return self.generic(node)

    def makes(self, function: ast.expr) -> None:
        """A call of a class that holds a block of params takes its defaults."""
        names = parts(function)
        if names is None:
            return
        for found, lazy in self.look_up(names):
            defaults = [x.module.defaults.get(x.name) for x in found.symbols]
            self.found.edges += [Edge((x,), lazy=lazy) for x in defaults if x is not None]

    def loader(self, function: ast.expr) -> str:
        """chosen, import_module, or nothing."""
        names = parts(function)
        if names is None:
            return ""
        found = [one for one, _ in self.look_up(names)]
        if any((x.module.name, x.name) == CHOICE for one in found for x in one.symbols):
            return "chosen"
        loads = "importlib.import_module" in {one.external for one in found}
        return "import_module" if loads or names == ("__import__",) else ""

    def finish(self) -> None:
        """Files that it reads, as its strings name them."""
        folder = self.module.path.parent
        if self.reads_files:
            named = {(folder / x).as_posix() for x in self.constants if x} & set(self.tree.files)
            self.found.files |= named
            if not named:
                self.found.unclear.append("__file__")
        if self.reads_package:
            for package in (x for x in self.constants if self.tree.has(x)):
                inside = f"{package.replace('.', '/')}/"
                self.found.files |= {
                    x for x in self.tree.files if x.startswith(inside) and not x.endswith(".py")
                }
