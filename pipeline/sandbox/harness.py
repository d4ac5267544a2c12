"""Inside the sandbox: an answer, then its tests. Given on stdin {token, answer, test, entry_point}.

The verdict goes to descriptor 3 with the token, after the tests: leaving early, with whatever exit
status, is no success, and neither is printing or writing anything without the token. Tests see
the builtins as they were, and whatever they compare, or take for true, is looked at first: values
whose comparison was not there before the answer ran are refused, wherever they came from.

So a class that the answer made, or that it took from a part of the library which is not loaded
here, may be returned and its attributes compared; but it must not itself be compared where it
says how (`__eq__`, `__lt__`, ... of its own, as dataclasses have; `__contains__` for `in`,
`__bool__` or `__len__` for truth). Named tuples, enums and plain subclasses of int are compared.

What this does not stop: the answer runs in the process that holds the token. One that was written
against this very file (walking the frames of its callers, or patching what tests import) can pass.
Comparisons that happen outside the text of the tests (`list.count`, `match`) are not looked at,
nor what an iterator has yet to yield or a Fraction was made to hold.
"""

import ast
import builtins
import collections
import functools
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

LOADED = ("array", "dataclasses", "datetime", "decimal", "enum", "fractions", "typing")  # values
RESULT = 3
GUARD = "__honest__"
COMPARED = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__class__")
NAMES = {
    "compared": COMPARED,
    "true": ("__bool__", "__len__"),
    "holds": (*COMPARED, "__contains__", "__iter__", "__getitem__"),
}
PLAIN = frozenset(map(id, (int, float, str, bool, bytes, complex, types.NoneType)))
HASHED = frozenset(map(id, (dict, set, frozenset)))
KEYS: Any = type({}.keys())
MANY: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque, KEYS)
FUNCTION = types.FunctionType
MRO, VARS = (vars(type)[name].__get__ for name in ("__mro__", "__dict__"))  # no metaclass has a say

globals()["__builtins__"] = dict(vars(builtins))  # for what follows: the answer may patch its own


class Guarding(ast.NodeTransformer):
    """Has the tests look at what they compare."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        for place, operator in enumerate(node.ops):
            if not isinstance(operator, ast.Is | ast.IsNot):
                holds = isinstance(operator, ast.In | ast.NotIn)
                sides[place] = guarded(sides[place], "compared")
                sides[place + 1] = guarded(sides[place + 1], "holds" if holds else "compared")
        node.left, *node.comparators = sides
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        node.test = guarded(node.test, "true")
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            node.operand = guarded(node.operand, "true")
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """assertEqual(a, b), isclose(a, b), operator.eq(a, b)"""
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if "assert" in name.lower() or "close" in name.lower() or name == "eq":
            node.args = [
                x if isinstance(x, ast.Starred) else guarded(x, "compared") for x in node.args
            ]
        return node


def guarded(node: ast.expr, use: str) -> ast.expr:
    if isinstance(node, ast.Constant | ast.Compare):  # a comparison is guarded itself
        return node
    name = ast.copy_location(ast.Name(GUARD, ast.Load()), node)
    return ast.copy_location(ast.Call(name, [node, ast.Constant(use)], []), node)


def existing() -> Iterator[type]:
    """Every class that there is."""
    found, todo = set(), [object]
    while todo:
        kind = todo.pop()
        if kind not in found:
            found.add(kind)
            todo += type.__subclasses__(kind)
    yield from found


def own(kind: Any, name: str, known: dict[int, Any]) -> bool:
    """Whether later code answers, or code of the library that asks later code."""
    for klass in MRO(kind):
        if name in VARS(klass):
            return id(klass) not in known or type(VARS(klass)[name]) is FUNCTION
    return False


def honest(known: dict[int, Any], value: Any, use: str) -> Any:
    """The value, unless it or what it holds compares by code that came after what is known."""
    todo, seen = [value], set()
    while todo:
        one = todo.pop()
        kind = type(one)
        if id(kind) in PLAIN or id(one) in seen:
            continue
        seen.add(id(one))
        if id(kind) not in known and any(own(kind, name, known) for name in NAMES[use]):
            raise TypeError(f"{use}: a value that compares by code of the answer")
        if use == "true" or (use == "holds" and id(kind) in HASHED):
            continue  # no more than the value itself is asked, or than its hash says
        use = "compared"
        todo += parts(one, MRO(kind))
    return value


def parts(value: Any, classes: tuple[type, ...]) -> Iterator[Any]:
    """Yield the content of a container, whatever a subclass says of it."""
    for kind in classes:
        if kind is dict:
            for pair in dict.items(value):
                yield from pair
        elif any(kind is one for one in MANY):
            held: Any = kind.__iter__  # type: ignore[attr-defined]
            if not PLAIN.issuperset(map(id, map(type, held(value)))):  # fast, as most are plain
                yield from held(value)


def graded(answer: str, test: str, entry_point: str) -> None:
    """Run both; raises whatever they raise."""
    tree = ast.fix_missing_locations(Guarding().visit(ast.parse(test, "test.py")))
    code = compile(tree, "test.py", "exec")
    for name in LOADED:
        __import__(name)
    known = {id(kind): kind for kind in existing()}  # alive, so that no later one has such an id
    before = dict(vars(builtins))
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    scope = vars(module)
    exec(compile(answer, "answer.py", "exec"), scope)
    sys.settrace(None)
    sys.setprofile(None)
    vars(builtins).update(before)
    tests = {name: value for name, value in scope.items() if name not in before}
    tests["__name__"] = "tests"
    tests["__builtins__"] = before  # which no function of the answer can reach when called
    tests[GUARD] = functools.partial(honest, known)
    entry = scope[entry_point]
    tests.pop("check", None)
    exec(code, tests)
    if "check" in tests:
        tests["check"](entry)


def main(write: Callable[[int, bytes], int], leave: Callable[[int], None]) -> None:
    given = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    token = given.pop("token")
    reason, detail = "error", ""
    try:
        graded(**given)
        reason = "passed"
    except AssertionError as error:
        reason, detail = "tests", str(error)
    except MemoryError:
        reason = "memory"
    except SystemExit as error:
        reason, detail = "exit", str(error)
    except BaseException as error:  # noqa: BLE001 - an answer may raise anything, and is wrong then
        detail = f"{type(error).__name__}: {error}"
    verdict = {"token": token, "reason": reason, "detail": detail[:300]}
    write(RESULT, json.dumps(verdict).encode())
    leave(0)


main(os.write, os._exit)
