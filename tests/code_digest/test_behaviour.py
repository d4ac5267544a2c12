"""What a variant's digest counts and what it leaves out; each rule on a package of a few lines."""

import textwrap

import pytest

from pipeline.code_digest import declared, files
from pipeline.code_digest.reading import digest
from pipeline.code_digest.reading.closure import Reader
from pipeline.code_digest.reading.source import Tree
from pipeline.code_digest.reading.symbols import Unclear
from pipeline.code_digest.variants import Part, Variant

MAIN = """
    from pipeline import a

    def main():
        a.f()

    if __name__ == "__main__":
        main()
"""


def code(main=MAIN, choice=None, **modules):
    """The digest of a stage `s`; modules by name or by path."""
    held = {"pipeline/__init__.py": b"", "stages/__init__.py": b""}
    for name, text in {"stages/s": main, **modules}.items():
        path = name if "/" in name else f"pipeline/{name}"
        held[path if "." in path else f"{path}.py"] = textwrap.dedent(text).encode()
    return digest.code(Reader(Tree(held)), Variant("s", (Part("s", choice or {}),)))


def text(main=MAIN, choice=None, **modules):
    return code(main, choice, **modules).text()


def names(found):
    return {line.rpartition(" ")[0] for line in found.lines}


SAME = {
    "a comment": "def f():\n    return 1  # one\n",
    "a docstring": 'def f():\n    """One."""\n    return 1\n',
    "a docstring of the module": '"""One."""\n\ndef f():\n    return 1\n',
    "another format": "def f(\n):\n    return (\n        1\n    )\n",
    "annotations of a signature": "def f() -> int:\n    return 1\n",
    "a helper that nobody calls": "def f():\n    return 1\n\ndef g():\n    return 2\n",
    "a class that nobody names": "class C:\n    x = 1\n\ndef f():\n    return 1\n",
    "a constant that nobody reads": "X = 1\n\ndef f():\n    return 1\n",
    "an import for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    "def f():\n    return 1\n",
    "what a program of its own does": "def f():\n    return 1\n"
    "if __name__ == '__main__':\n    f()\n",
    "an annotation inside": "def f():\n    x: int = 1\n    return x\n",
}


@pytest.mark.parametrize("change", SAME)
def test_what_cannot_change_behaviour_changes_no_digest(change):
    value = "x = 1\n    return x" if "inside" in change else "return 1"
    first = f"def f():\n    {value}\n"
    assert text(a=first) == text(a=SAME[change])


@pytest.mark.parametrize(
    "own",
    [
        "def f():\n    g = 1\n    return g",
        "def f(g): return g",
        "def f(x): return [g for g in x]",
        "def f(x):\n    for g in x: pass\n    return lambda: g",
        "def f():\n    try: pass\n    except OSError as g: return g",
        "def f(x):\n    match x:\n        case [g]: return g",
        "def f():\n    def g(): pass\n    return g",
    ],
)
def test_a_name_of_a_functions_own_is_no_other_of_the_module(own):
    assert text(a=f"{own}\ndef g(): return 1") == text(a=f"{own}\ndef g(): return 2")


# a rule: the modules before, and what is another after
COUNTS = {
    "a function": ({"a": "def f(): return 1"}, {"a": "def f(): return 2"}),
    "a function that it calls": (
        {"a": "def f(): return g()\ndef g(): return 1"},
        {"a": "def f(): return g()\ndef g(): return 2"},
    ),
    "a sign": ({"a": "def f(x): return x - 1"}, {"a": "def f(x): return x + 1"}),
    "a default": ({"a": "def f(x=1): return x"}, {"a": "def f(x=2): return x"}),
    "a constant": ({"a": "X = 1\ndef f(): return X"}, {"a": "X = 2\ndef f(): return X"}),
    "a constant changed later": (
        {"a": "X = {1}\nX |= {2}\ndef f(): return X"},
        {"a": "X = {1}\nX |= {3}\ndef f(): return X"},
    ),
    "a name of a tuple": (
        {"a": "X, Y = 1, 2\ndef f(): return X"},
        {"a": "X, Y = 3, 2\ndef f(): return X"},
    ),
    "through the module": (
        {"a": "from pipeline import b\ndef f(): return b.g()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "from the module": (
        {"a": "from pipeline.b import g\ndef f(): return g()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "under another name": (
        {"a": "from pipeline.b import g as h\ndef f(): return h()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "by its dotted name": (
        {"a": "import pipeline.b\ndef f(): return pipeline.b.g()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "a relative import": (
        {"a": "from .b import g\ndef f(): return g()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "what a comprehension goes over": (
        {"a": "g = [1]\ndef f(): return [g for g in g]"},
        {"a": "g = [2]\ndef f(): return [g for g in g]"},
    ),
    "a re-export": (
        {
            "a": "from pipeline import p\ndef f(): return p.g()",
            "pipeline/p/__init__": "from pipeline.p.b import g",
            "pipeline/p/b": "def g(): return 1",
        },
        {"pipeline/p/b": "def g(): return 2"},
    ),
    "an import inside a function": (
        {"a": "def f():\n    from pipeline.b import g\n    return g()", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "an alias": (
        {"a": "from pipeline import b\ng = b.h\ndef f(): return g()", "b": "def h(): return 1"},
        {"b": "def h(): return 2"},
    ),
    "a method": (
        {"a": "class C:\n    def m(self): return 1\ndef f(): return C().m()"},
        {"a": "class C:\n    def m(self): return 2\ndef f(): return C().m()"},
    ),
    "a method of a base": (
        {
            "a": "from pipeline.b import B\nclass C(B): pass\ndef f(): return C().m()",
            "b": "class B:\n    def m(self): return 1",
        },
        {"b": "class B:\n    def m(self): return 2"},
    ),
    "an annotation of a class": (
        {"a": "class C:\n    x: int\ndef f(): return C"},
        {"a": "class C:\n    x: str\ndef f(): return C"},
    ),
    "a type in quotes in a class": (
        {"a": "from pipeline.b import N\nclass C:\n    x: 'N'\ndef f(): return C", "b": "N = 1"},
        {"b": "N = 2"},
    ),
    "a decorator": (
        {"a": "from pipeline.b import d\n@d\ndef f(): pass", "b": "def d(f): return 1"},
        {"b": "def d(f): return 2"},
    ),
    "annotations that a decorator may read": (
        {"a": "from pipeline.b import d\n@d\ndef f(x: int): pass", "b": "def d(f): pass"},
        {"a": "from pipeline.b import d\n@d\ndef f(x: str): pass"},
    ),
    "what a decorator registers": (
        {"a": "from pipeline.b import d\n@d\ndef g(): return 1\ndef f(): 0", "b": "def d(x): 0"},
        {"a": "from pipeline.b import d\n@d\ndef g(): return 2\ndef f(): 0"},
    ),
    "what a default makes": (
        {"a": "def g(x=make()): pass\ndef make(): return 1\ndef f(): pass"},
        {"a": "def g(x=make()): pass\ndef make(): return 2\ndef f(): pass"},
    ),
    "what the body of a class does": (
        {"a": "class C:\n    print(1)\ndef f(): pass"},
        {"a": "class C:\n    print(2)\ndef f(): pass"},
    ),
    "what the body of a class makes": (
        {"a": "class C:\n    x = make()\ndef make(): return 1\ndef f(): pass"},
        {"a": "class C:\n    x = make()\ndef make(): return 2\ndef f(): pass"},
    ),
    "a metaclass": (
        {"a": "class C(metaclass=M): x = 1\nclass M(type): pass\ndef f(): pass"},
        {"a": "class C(metaclass=M): x = 2\nclass M(type): pass\ndef f(): pass"},
    ),
    "an assignment with a call": (
        {"a": "X = print(1)\ndef f(): pass"},
        {"a": "X = print(2)\ndef f(): pass"},
    ),
    "what an import does": (
        {"a": "import os\nos.environ['X'] = '1'\ndef f(): pass"},
        {"a": "import os\nos.environ['X'] = '2'\ndef f(): pass"},
    ),
    "what an import does first": (
        {"a": "print(1)\nprint(2)\ndef f(): pass"},
        {"a": "print(2)\nprint(1)\ndef f(): pass"},
    ),
    "what an import does under a condition": (
        {"a": "import os\nif os.name:\n    X = 1\nelse:\n    X = 2\ndef f(): return X"},
        {"a": "import os\nif os.name:\n    X = 1\nelse:\n    X = 3\ndef f(): return X"},
    ),
    "a module that is loaded for what it does": (
        {"a": "import pipeline.b\ndef f(): pass", "b": "print(1)"},
        {"b": "print(2)"},
    ),
    "what a package does when a module of it is loaded": (
        {
            "a": "from pipeline.p.b import g\ndef f(): g()",
            "pipeline/p/__init__": "print(1)",
            "pipeline/p/b": "def g(): 0",
        },
        {"pipeline/p/__init__": "print(2)"},
    ),
    "another library under the same name": (
        {"a": "import numpy as np\ndef f(): return np.sum"},
        {"a": "import torch as np\ndef f(): return np.sum"},
    ),
    "a library that is imported for what it does": (
        {"a": "import readline\ndef f(): pass"},
        {"a": "import rlcompleter\ndef f(): pass"},
    ),
    "the same inside a function": (
        {"a": "def f():\n    import readline"},
        {"a": "def f():\n    import rlcompleter"},
    ),
    "any name of a module that is handed on": (
        {"a": "from pipeline import b\ndef f(x): return getattr(b, x)", "b": "def g(): return 1"},
        {"b": "def g(): return 2"},
    ),
    "any name where one is not found": (
        {"a": "from pipeline import b\ndef f(): return b.g", "b": "def __getattr__(n): return 1"},
        {"b": "def __getattr__(n): return 2"},
    ),
    "all that globals() may give": (
        {"a": "def f(x): return globals()[x]()\ndef g(): return 1"},
        {"a": "def f(x): return globals()[x]()\ndef g(): return 2"},
    ),
    "a module that is started by its name": (
        {"a": "def f(run): run('-m', 'pipeline.b')", "b": "if __name__ == '__main__': print(1)"},
        {"b": "if __name__ == '__main__': print(2)"},
    ),
    "a module that a string names": (
        {"a": "def f(run): run('-m', 'pipeline.b')", "b": "def serve(): return 1"},
        {"b": "def serve(): return 2"},
    ),
    "any name of a module that is also a program": (
        {
            "a": "def f(run): run('import pipeline.b', 'pipeline.b')",
            "b": "def serve(): return 1\nif __name__ == '__main__': print(1)",
        },
        {"b": "def serve(): return 2\nif __name__ == '__main__': print(1)"},
    ),
    "a plain dynamic import": (
        {
            "a": "import importlib\ndef f(): return importlib.import_module('pipeline.b').g()",
            "b": "def g(): return 1",
        },
        {"b": "def g(): return 2"},
    ),
    "a file beside the module": (
        {
            "a": "from pathlib import Path\ndef f(): return Path(__file__).with_name('x.txt')",
            "pipeline/x.txt": "1",
        },
        {"pipeline/x.txt": "2"},
    ),
    "a program beside the module": (
        {
            "a": "from pathlib import Path\ndef f(): return Path(__file__).with_name('x.py')",
            "pipeline/x.py": "print(1)",
        },
        {"pipeline/x.py": "print(2)"},
    ),
    "a template of a package": (
        {
            "a": "from jinja2 import PackageLoader as P\ndef f(): return P('pipeline.p', '.')",
            "pipeline/p/__init__": "",
            "pipeline/p/x.j2": "1",
        },
        {"pipeline/p/x.j2": "2"},
    ),
    "a docstring that is read": (
        {"a": "def f():\n    'one'\n    return f.__doc__"},
        {"a": "def f():\n    'two'\n    return f.__doc__"},
    ),
}


@pytest.mark.parametrize("rule", COUNTS)
def test_what_may_change_behaviour_changes_the_digest(rule):
    before, after = COUNTS[rule]
    assert text(**before) != text(**before | after)


def test_equal_names_are_told_apart_by_who_uses_them():
    """Two modules whose functions change places: the same symbols, put together otherwise."""
    main = """
        from pipeline import a, b
        def main(): return a.f() - b.f()
        if __name__ == "__main__": main()
    """
    one, two = "def f(): return 1", "def f(): return 2"
    first, second = code(main, a=one, b=two), code(main, a=two, b=one)
    assert first.lines[:-1] == second.lines[:-1]
    assert first.lines[-1] != second.lines[-1]
    main = main.replace("a, b", "a, b, c").replace("b.f()", "b.f() + c.g()")
    both = {"a": one, "b": two}
    first, second = (f"from pipeline.{x} import f\ndef g(): return f()" for x in both)
    assert text(main, **both, c=first) != text(main, **both, c=second)
    main = main.replace(", c", "").replace(" + c.g()", "")
    deeper = "def f(): return g()\ndef g(): return {}"
    first = text(main, a=deeper.format(1), b=deeper.format(2))
    assert first != text(main, a=deeper.format(2), b=deeper.format(1))


def test_a_moved_or_renamed_module_changes_no_digest():
    before = text(
        a="from pipeline import b, c\nfrom pipeline.c import h\ndef f(): return b.g() + h() + c.X",
        b="import re\nR = re.compile('x')\ndef g(): return R",
        c="X = 1\ndef h(): return X",
    )
    after = text(
        MAIN.replace("import a", "import z").replace("a.f", "z.f"),
        z="from pipeline.p import d\nfrom pipeline.p.d import g, X\n"
        "def f(): return g() + d.h() + X",
        **{
            "pipeline/p/__init__": "",
            "pipeline/p/d": "import re\nX = 1\nR = re.compile('x')\n"
            "def g(): return R\ndef h(): return X",
        },
    )
    assert before == after


OPTIONS = {
    "a": "def f(x):\n    if x:\n        from pipeline.one import g\n        return g()\n"
    "    from pipeline.two import g\n    return g()",
    "one": "def g(): return 1",
    "two": "def g(): return 2",
}
BOTH = {
    "pipeline.one": {"which": frozenset({"one"})},
    "pipeline.two": {"which": frozenset({"two"})},
}


def test_a_variant_holds_what_it_chooses_and_without_a_choice_everything(monkeypatch):
    monkeypatch.setattr(declared, "OPTIONS", BOTH)
    one = {"which": frozenset({"one"})}
    assert code(choice=one, **OPTIONS).modules == (
        "pipeline",
        "pipeline.a",
        "pipeline.one",
        "stages.s",
    )
    assert text(choice=one, **OPTIONS) == text(choice=one, **OPTIONS | {"two": "def g(): return 3"})
    assert text(choice=one, **OPTIONS) != text(choice=one, **OPTIONS | {"one": "def g(): return 3"})
    for name in ("one", "two"):
        assert text(**OPTIONS) != text(**OPTIONS | {name: "def g(): return 3"})
    at_the_top = OPTIONS | {"a": "from pipeline.two import g\ndef f(): return g()"}
    assert text(choice=one, **at_the_top) != text(
        choice=one, **at_the_top | {"two": "def g(): return 3"}
    )


CHOSEN = {
    "a": "from pipeline.core.chosen import chosen\ndef f(x): return chosen('pipeline.p', x, 'g')()",
    "pipeline/core/__init__": "",
    "pipeline/core/chosen": "import importlib\n"
    "def chosen(p, m, s): return importlib.import_module(m + p)",
    "pipeline/p/__init__": "",
    "pipeline/p/one": "def g(): return 1\ndef unused(): return 1",
    "pipeline/p/two": "def g(): return 1",
}


PARAMS = "pipeline/config/params"
BLOCKS = {
    "pipeline/config/__init__": "",
    PARAMS: "class Params: pass\nclass B(Params):\n    x: int = 1\nclass C(B):\n    y: int = 1",
    "a": "from pipeline.config.params import C\ndef f(validated): return validated(C)",
}


def test_a_default_of_a_block_of_params_counts_where_the_class_is_called():
    """A cell's params hold every key: tests/stage/test_cells.py."""

    def differ(old, new, **more):
        changed = {PARAMS: BLOCKS[PARAMS].replace(old, new)}
        assert changed[PARAMS] != BLOCKS[PARAMS]
        return text(**BLOCKS | more) != text(**BLOCKS | more | changed)

    called = {"a": "from pipeline.config import params\ndef f(): return params.C()"}
    for name in ("x", "y"):
        assert not differ(f"{name}: int = 1", f"{name}: int = 2")
        assert differ(f"{name}: int = 1", f"{name}: str = 1")
        assert differ(f"{name}: int = 1", f"{name}: int = 2", **called)
    elsewhere = {PARAMS: "X = 1", "b": BLOCKS[PARAMS]}
    other = {"b": BLOCKS[PARAMS].replace("y: int = 1", "y: int = 2")}
    named = {"a": BLOCKS["a"].replace("pipeline.config.params", "pipeline.b")}
    assert text(**elsewhere | named) != text(**elsewhere | named | other)


def test_the_one_dynamic_import_holds_the_symbol_of_every_module_that_may_be_chosen(monkeypatch):
    before = text(**CHOSEN)
    for name in ("pipeline/p/one", "pipeline/p/two"):
        assert before != text(**CHOSEN | {name: "def g(): return 2"})
    assert before == text(
        **CHOSEN | {"pipeline/p/one": "def g(): return 1\ndef unused(): return 2"}
    )
    monkeypatch.setattr(declared, "OPTIONS", {"pipeline.p.two": {"which": frozenset({"two"})}})
    one = {"which": frozenset({"one"})}
    assert text(choice=one, **CHOSEN) == text(
        choice=one, **CHOSEN | {"pipeline/p/two": "def g(): return 2"}
    )
    with pytest.raises(Unclear, match="plain string"):
        text(**CHOSEN | {"a": CHOSEN["a"].replace("'g'", "x")})


@pytest.mark.parametrize(
    "line",
    [
        "import runpy\ndef f(x): runpy.run_module(x)",
        "import importlib\ndef f(x): importlib.import_module(x)",
        "def f(x): __import__(x)",
        "def f(x): exec(x)",
        "def f(x): eval(x)",
        "def f(x): return x.__subclasses__()",
        "def f(x): return f'pipeline.{x}'",
        "def f(): return __file__",
        "import pickle\ndef f(x): return pickle.loads(x)",
        "from pipeline.b import *\ndef f(): return g()",
    ],
)
def test_code_that_may_reach_anything_has_to_be_declared(line, monkeypatch):
    with pytest.raises(Unclear):
        text(a=line)
    monkeypatch.setattr(declared, "REACHES", {"pipeline.a:f": ("pipeline.b",)})
    if "*" not in line:
        assert text(a=line, b="X = 1") != text(a=line, b="X = 2")


def test_only_libraries_that_compute_and_that_are_loaded_are_named():
    found = code(
        a="import json, numpy\nfrom pipeline import b\ndef f():\n    from peft import LoraConfig",
        b="import torch.nn\ndef unused():\n    import transformers",
        c="import scipy",
    )
    assert found.libraries == ("numpy", "peft", "torch")


def test_the_text_of_a_symbol_is_the_same_under_every_python():
    """These hashes were made by 3.11; the syntax is all that it has."""
    found = code(a=SYNTAX)
    assert dict(line.rsplit(" ", 1) for line in found.lines)["f"] == "135e2cdaaed38f75"


SYNTAX = '''
import asyncio
def f(a, /, b=1, *c, d: int = 2.5, e=1e-9, **g):
    """Doc."""
    global X
    x: list[int] = [i async for i in a if i]
    y = {**g, "k": -1, b"b": ..., 3j: None}
    with open(a) as h, (yield): pass
    try:
        raise ValueError(f"{a!r:>{b}} and {b=} 'it' {c[1:2, ...]}" " tail") from None
    except* (OSError, ValueError) as error:
        del x[0]
    else:
        assert not (a := b) < c, "no"
    finally:
        X = lambda *q, k=1: (q, k)
    match a:
        case {"k": [1, *rest], **more} | str(z=None): return rest
        case (-1 | True) if b: return more
        case _: nonlocal_ = {i: j for i, j in g.items()}
    for i, (j, *k) in enumerate(a): continue
    else: return a @ b // c ** d if a else await_(a)
    while a: break
    return not a or b and c, a is not b, a not in b
'''


def test_every_file_of_the_packages_is_read_and_no_other(tmp_path):
    left_out = ("pipeline/__pycache__/a.pyc", "other/a.py", "mine/stages/a.py", "extensions/a.py")
    for name in ("pipeline/a.py", "stages/p/x.j2", "mine/extensions/b.py", *left_out):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    found = files.read(tmp_path, tmp_path / "mine")
    assert set(found) == {"pipeline/a.py", "stages/p/x.j2", "extensions/b.py"}
    key = files.key(found)
    (tmp_path / "stages/p/x.j2").write_text("2")
    assert files.key(files.read(tmp_path, tmp_path / "mine")) != key
