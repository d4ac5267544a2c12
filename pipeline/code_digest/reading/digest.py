"""A variant's code as lines of text: what it can reach, without the names of our modules.

    NAME HASH             a function, a class, a constant; or what an import runs
    file NAME HASH        of a package, read as data
    library NAME X.Y      one that computes
    calls HASH            how all of these are put together

The last tells codes apart that have the same symbols and use them otherwise: it is of the graph of
references from each stage's `main`, numbered in the order in which they are come across, so that
it is the same wherever a symbol lies.
"""

import hashlib
from collections.abc import Iterable

from pipeline.code_digest import libraries
from pipeline.code_digest.code import CALLS, FILE, Code
from pipeline.code_digest.reading.closure import Reached, Reader, reach
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.reading.symbols import Symbol
from pipeline.code_digest.reading.text import plain
from pipeline.code_digest.variants import Variant


def code(reader: Reader, variant: Variant) -> Code:
    """Raises Unclear where it cannot be told what the variant reaches."""
    parts = [reach(reader, part.entry, part.chosen) for part in variant.parts]
    places = set[tuple[str, str]]()
    lines = list[str]()
    symbols = dict.fromkeys(s for part in parts for s in part.symbols)
    for symbol in symbols:
        line = f"{symbol.name} {reader.written(symbol).hash}"
        lines.append(line)
        places.add((line, symbol.module.path.as_posix()))
    for path in sorted({path for part in parts for path in part.files}):
        line = f"{FILE} {path.rpartition('/')[2]} {_of_file(reader.tree, path)}"
        lines.append(line)
        places.add((line, path))
    calls = hashlib.sha256("\n".join(_graph(reader, part) for part in parts).encode())
    externals = {name for part in parts for name in part.externals}
    others = libraries.installed({name for part in parts for name in part.own})
    return Code(
        (*sorted(lines), f"{CALLS} {calls.hexdigest()[:16]}"),
        tuple(sorted({*libraries.computing(externals), *others})),
        tuple(sorted({name for part in parts for name in part.modules})),
        tuple(sorted(places)),
    )


def _of_file(tree: Tree, path: str) -> str:
    if path.endswith(".py"):
        return plain(tree.files[path], path)
    return hashlib.sha256(tree.files[path]).hexdigest()[:16]


def _graph(reader: Reader, part: Reached) -> str:
    """The references among what is reached, and in which order imports act."""

    def key(symbol: Symbol) -> tuple[str, str]:
        return symbol.name, reader.written(symbol).hash

    numbers: dict[Symbol, int] = {}
    rest = sorted(part.symbols, key=lambda s: (*key(s), s.module.name))
    for root in (*part.mains, *rest):
        waiting = [root]
        while waiting:
            symbol = waiting.pop()
            if symbol not in numbers:
                numbers[symbol] = len(numbers)
                waiting += reversed(part.edges[symbol])
    lines = [
        f"{' '.join(key(symbol))} {[numbers[x] for x in part.edges[symbol]]}" for symbol in numbers
    ]
    acts = (reader.tree.module(name).always for name in part.modules)
    lines += sorted(f"{[numbers[x] for x in some]}" for some in acts if len(some) > 1)
    effects = {x for name in part.modules for x in reader.tree.module(name).effects}
    return "\n".join([*lines, *sorted(effects)])


def codes(tree: Tree, variants: Iterable[Variant]) -> dict[str, Code]:
    """The code of each variant, by its name."""
    reader = Reader(tree)
    return {variant.name: code(reader, variant) for variant in variants}
