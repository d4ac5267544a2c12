"""Programs are found in whatever models wrap them in: 60 right ones, 60 wrong, 20 wrappings."""

import json

import pytest

from pipeline.sandbox import extract
from pipeline.tasks import code
from tests.tasks.test_code import needs_sandbox, prepare
from tests.wrapped import BODIES, WRAPPINGS, styles


def prompt_of(name, args):
    return f'from typing import Any\n\n\ndef {name}({args}):\n    """Does it."""\n'


def passes(source, name, test):
    """Whether a program of this file, which is trusted, passes its test."""
    scope = {}
    try:
        exec(compile(source, "answer.py", "exec"), scope)
        return bool(eval(test, {"f": scope[name]}))
    except (NameError, TypeError, ValueError, ArithmeticError, SyntaxError, KeyError):
        return False


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_right_programs_pass_in_every_wrapping_and_wrong_ones_do_not(wrapping):
    found = {True: [], False: []}
    for name, (args, good, bad, test) in BODIES.items():
        for value, right in ((good, True), (bad, False)):
            for style, source in styles(name, args, value).items():
                response = WRAPPINGS[wrapping](source, name)
                program = extract.program(response, prompt_of(name, args), name)
                found[right].append((passes(program, name, test), name, style))
    assert len(found[True]) == len(found[False]) == 60
    assert [one for one in found[True] if not one[0]] == []
    assert [one for one in found[False] if one[0]] == []


@needs_sandbox
@pytest.mark.parametrize("wrapping", list(WRAPPINGS)[::4])
def test_a_wrapped_program_is_graded_in_the_sandbox(tmp_path, wrapping):
    args, good, bad, test = BODIES["pairs"]
    task = code.load(prepare(tmp_path))
    tests = f"def check(f):\n    assert {test}\n"
    problem = {"prompt": prompt_of("pairs", args), "test": tests, "entry_point": "pairs"}
    for value, right in ((good, True), (bad, False)):
        response = WRAPPINGS[wrapping](styles("pairs", args, value)["future"], "pairs")
        assert task.check("own", response, json.dumps(problem)).correct == right


BODY = 'def double(n):\n    """Twice n."""\n'


@pytest.mark.parametrize(
    "response",
    [
        "    return 2 * n\n",
        "return 2 * n",
        "    m = 2 * n\n    return m\n\nThis doubles it, as it's asked.",
        "The body is:\n\n    return 2 * n\n",
        "```python\nm = 2 * n\nreturn m\n```",
        "```python\n    return 2 * n\n```",
        "    return 2 * n\n\nprint(double(undefined))",
        ">>> def double(n):\n...     return 2 * n\n",
        "double = lambda n: 2 * n",
        "In [1]: def double(n):\n   ...:     return 2 * n\n",
        "[BEGIN]\ndef double(n):\n    return 2 * n\n[DONE]",
        f"```python\n{BODY}```\nThe body:\n```python\n    return 2 * n\n```",
        "```\ndef double(n):\n\u00a0\u00a0return 2 * n\n```",
        "```\nfrom __future__ import annotations\n```\n"
        "```\ndef double(n: X):\n    return 2 * n\n```",
    ],
)
def test_a_response_may_go_on_with_the_prompt_or_be_a_session(response):
    assert passes(extract.program(response, BODY, "double"), "double", "f(3) == 6")


def test_a_stub_without_a_body_or_a_fence_stays_one():
    assert not passes(extract.program(BODY, BODY, "double"), "double", "f(3) == 6")


def test_a_program_that_does_not_compile_is_no_body():
    response = "```python\ndef double(n)\n    return 2 * n\n```"
    assert not passes(extract.program(response, BODY, "double"), "double", "f(3) == 6")


@needs_sandbox
def test_a_text_that_the_parser_does_not_get_through_is_wrong_with_its_reason(tmp_path):
    task = code.load(prepare(tmp_path, timeout_seconds=2.0))
    problem = json.dumps({"prompt": BODY, "test": "", "entry_point": "double"})
    found = task.check("own", "```\n" * 24_000, problem)
    assert (found.correct, found.reason) == (False, "timeout")
