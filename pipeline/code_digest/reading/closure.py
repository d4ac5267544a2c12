"""The closure of a variant of a stage: modules, symbols in them, files and libraries it reaches.

Reached from a stage's `main`: the symbols that it names, those that they name, and so on, and of
each module that is loaded on the way what its import runs. Where it cannot be told which name of a
module is meant, all of them are. An import inside a function is left out where a variant chooses
otherwise, which `guard` makes sure of.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.code_digest import declared
from pipeline.code_digest.files import EXTENSIONS, MACHINERY, machinery
from pipeline.code_digest.reading import resolve
from pipeline.code_digest.reading.imports import parents
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.reading.symbols import Symbol, Unclear, Written
from pipeline.code_digest.reading.text import write

Chosen = Mapping[str, frozenset[str]]  # axis: the values that a variant chooses


@dataclass
class Reached:
    """The modules, symbols, files and libraries that one entry reaches."""

    mains: list[Symbol] = field(default_factory=list)
    symbols: dict[Symbol, Written] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    externals: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)  # of these, what extensions/ imports
    files: set[str] = field(default_factory=set)
    edges: dict[Symbol, list[Symbol]] = field(default_factory=dict)


class Reader:
    """Texts of the symbols of a tree, each written once."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._written: dict[Symbol, Written] = {}

    def written(self, symbol: Symbol) -> Written:
        if symbol not in self._written:
            self._written[symbol] = write(self.tree, symbol)
        return self._written[symbol]


def reach(reader: Reader, entry: str, chosen: Chosen) -> Reached:
    """The closure of `python -m ENTRY`. Raises Unclear where that cannot be told."""
    return _Walk(reader, chosen).run(entry)


class _Walk:
    def __init__(self, reader: Reader, chosen: Chosen) -> None:
        self.reader, self.tree, self.chosen = reader, reader.tree, chosen
        self.found = Reached()
        self.queue: deque[Symbol] = deque()

    def run(self, entry: str) -> Reached:
        for name in (x for one in MACHINERY for x in parents(one)):
            self.load(name)  # packages that the machinery lies in: their code runs in every stage
        self.program(entry)
        while self.queue:
            self.visit(self.queue.popleft())
        return self.found

    def program(self, name: str) -> None:
        """A module that is run by `-m`."""
        self.load(name)
        module = self.tree.module(name)
        if module.main is None:
            self.wanted(self.whole(name))
        elif module.main not in self.found.mains:
            self.found.mains.append(module.main)
            self.wanted([module.main])

    def load(self, name: str) -> None:
        """An import of ours, with the packages that it lies in and what it imports itself."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            if name in self.found.modules or machinery(name) or not self.tree.has(name):
                continue
            self.found.modules.add(name)
            module = self.tree.module(name)
            self.external(module.name, module.externals)
            self.wanted(module.always)
            waiting += [*parents(name), *module.loads]

    def wanted(self, symbols: Iterable[Symbol]) -> None:
        for symbol in symbols:
            if symbol not in self.found.symbols:
                self.found.symbols[symbol] = self.reader.written(symbol)
                self.queue.append(symbol)

    def visit(self, symbol: Symbol) -> None:
        written = self.found.symbols[symbol]
        self.load(symbol.module.name)
        self.external(symbol.module.name, written.externals)
        self.found.files |= written.files
        more = self.declared(symbol, written)
        for name in written.loads:
            if not self.left_out(name):
                self.load(name)
        leads = list[Symbol]()
        for edge in written.edges:
            if not (edge.lazy and self.left_out(edge.lazy)):
                leads += edge.symbols
                for name in edge.wholes:
                    self.load(name)
                    leads += self.whole(name)
        for package, name in written.choices:
            leads += self.choice(package, name)
        for name in (*written.started, *more):
            self.program(name)
            leads += self.whole(name)
        self.found.edges[symbol] = leads
        self.wanted(leads)

    def external(self, module: str, names: set[str]) -> None:
        self.found.externals |= names
        if module.partition(".")[0] == EXTENSIONS:
            self.found.own |= names

    def declared(self, symbol: Symbol, written: Written) -> tuple[str, ...]:
        """The declaration of what a symbol reaches, where no text of it says so."""
        if not written.unclear:
            return ()
        where = f"{symbol.module.name}:{symbol.name}"
        if where not in declared.REACHES:
            raise Unclear(
                f"{symbol.module.path}: {symbol.name} reaches what no text says, by "
                f"{', '.join(written.unclear)}; wanted an import or {'.'.join(declared.CHOICE)}(), "
                f"or {where!r} in REACHES of pipeline/code_digest/declared.py."
            )
        return declared.REACHES[where]

    def whole(self, name: str) -> list[Symbol]:
        """Any name of a module, also one that it imports from another."""
        if machinery(name) or not self.tree.has(name):
            return []
        module = self.tree.module(name)
        found = dict.fromkeys(module.symbols[x] for x in sorted(module.symbols))
        for bound in sorted(module.imports):
            for target, of in module.imports[bound]:
                if of and self.tree.has(target) and not machinery(target):
                    there = self.tree.module(target)
                    found |= dict.fromkeys([there.symbols[of]] if of in there.symbols else [])
        return list(found)

    def choice(self, package: str, name: str) -> list[Symbol]:
        """The symbols called `name` in the modules of a package that the variant may choose."""
        found = list[Symbol]()
        ours = (
            one
            for one in self.tree.below(package)
            if one not in declared.SHARED and not self.left_out(one)
        )
        for module in (*(ours if package != EXTENSIONS else ()), *self.extensions(name)):
            self.load(module)
            if name:
                ends = resolve.follow(self.tree, module, (name,))
                found += [symbol for end in ends for symbol in end.symbols]
            else:
                found += self.whole(module)
        return found

    def extensions(self, symbol: str) -> list[str]:
        """Files of the experiment's own that the variant chooses and that have such a symbol."""
        chosen = sorted({value for values in self.chosen.values() for value in values})
        own = [x for x in chosen if x.partition(".")[0] == EXTENSIONS and self.tree.has(x)]
        modules = [self.tree.module(x) for x in own]
        return [x.name for x in modules if symbol in x.symbols or symbol in x.imports]

    def left_out(self, module: str) -> bool:
        """Whether the variant has chosen something else in place of a module."""
        axes = declared.options(module).items()
        asked = [values for axis, values in axes if axis in self.chosen]
        wanted = [v for axis, v in axes if axis in self.chosen and v & self.chosen[axis]]
        return bool(asked) and not wanted
