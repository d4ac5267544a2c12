"""Modules of ours, the symbols that they bind, and what is written of a symbol."""

import ast
from dataclasses import dataclass, field
from pathlib import Path


class Unclear(Exception):
    """Code whose reach cannot be told, and what to write instead."""


@dataclass
class Symbol:
    """A binding of one name at the top level of a module, or a statement that is run there."""

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
    always: list[Symbol] = field(default_factory=list)  # run wherever it is loaded, in order
    main: Symbol | None = None  # under `if __name__ == "__main__"`
    loads: list[str] = field(default_factory=list)  # ours, when it is imported
    externals: set[str] = field(default_factory=set)  # of others, likewise
    effects: list[str] = field(default_factory=list)  # of these, imported and not used
    docs: bool = False  # its docstrings are read
    # of classes that hold a block of params: their fields' defaults, apart from the class
    defaults: dict[str, Symbol] = field(default_factory=dict)

    @property
    def package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Edge:
    """One reference, in the order of the text."""

    symbols: tuple[Symbol, ...] = ()
    wholes: tuple[str, ...] = ()
    lazy: str = ""  # the module of an import inside the function, through which it goes


@dataclass
class Written:
    """A symbol's text and all that is reached from it."""

    hash: str = ""
    edges: list[Edge] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)  # our modules, imported inside it
    externals: set[str] = field(default_factory=set)  # modules of libraries, likewise
    choices: list[tuple[str, str]] = field(default_factory=list)  # (package, symbol; "" for all)
    started: list[str] = field(default_factory=list)  # modules run as a program
    files: set[str] = field(default_factory=set)  # paths
    unclear: list[str] = field(default_factory=list)  # what may reach more
