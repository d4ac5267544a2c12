"""Inside the sandbox: an answer, then its tests. Given on stdin {token, answer, test, entry_point}.

The verdict goes to descriptor 3 with the token, after the tests: leaving early, with whatever exit
status, is no success, and neither is printing or writing anything without the token. Tests see
the builtins as they were, and values whose comparisons the answer wrote itself are refused.

What this does not stop: the answer runs in the process that holds the token. One that was written
against this very file (walking the frames of its callers, or patching what tests import) can pass.
"""

import builtins
import functools
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any

RESULT = 3
COMPARED = (
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__len__"),
    *("__contains__", "__sub__", "__rsub__", "__abs__", "__hash__", "__getattribute__"),
)


def foreign(value: Any, scope: dict[str, Any]) -> bool:
    """Whether a value, or one in it, compares by code of the answer."""
    if type(value) in (list, tuple, set, frozenset):
        return any(foreign(x, scope) for x in value)
    if type(value) is dict:
        return any(foreign(x, scope) for pair in value.items() for x in pair)
    return any(
        getattr(vars(klass).get(name), "__globals__", None) is scope
        for klass in type(value).__mro__
        for name in COMPARED
    )


def shielded(function: Any, scope: dict[str, Any]) -> Any:
    """A function of the answer that returns honest values; anything else as it is."""
    if not isinstance(function, types.FunctionType):
        return function

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        found = function(*arguments, **named)
        if foreign(found, scope):
            raise TypeError("the value compares by code of the answer")
        return found

    return call


def graded(answer: str, test: str, entry_point: str) -> None:
    """Run both; raises whatever they raise."""
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
    tests[entry_point] = shielded(scope[entry_point], scope)
    tests.pop("check", None)
    exec(compile(test, "test.py", "exec"), tests)
    if "check" in tests:
        tests["check"](tests[entry_point])


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
    except BaseException as error:  # noqa: BLE001 - an answer may raise anything
        detail = f"{type(error).__name__}: {error}"
    verdict = {"token": token, "reason": reason, "detail": detail[:300]}
    write(RESULT, json.dumps(verdict).encode())
    leave(0)


main(os.write, os._exit)
