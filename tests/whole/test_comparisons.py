"""What tests compare is honest: no answer says itself what it equals, and ordinary ones pass."""

import pytest

from pipeline import sandbox
from pipeline.tasks import code
from tests.tasks.test_code import needs_sandbox

ANY = "class Any(KIND):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
KINDS = {"object": "", "int": "1", "str": "'1'", "list": "[1]", "tuple": "(1,)"}


@needs_sandbox
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "check"),
    [
        ("return any", "f(1) == 2"),
        ("return any", "2 == f(1)"),
        ("return any", "not 2 != f(1)"),
        ("return any", "f(1) in (2, 3)"),
        ("return [{'x': (1, any)}]", "f(1) == [{'x': (1, 2)}]"),
        ("return collections.deque([any])", "list(f(1)) == [2]"),
        ("return {1: any}.values()", "sorted(f(1)) == [2]"),
        ("yield any", "list(f(1)) == [2]"),
        ("yield any", "next(f(1)) == 2"),
        ("return types.SimpleNamespace(x=any)", "f(1).x == 2"),
        ("return [any]", "2 in f(1)"),
        ("return any", "operator.eq(f(1), 2)"),
        ("return any", "unittest.TestCase().assertEqual(f(1), 2) is None"),
    ],
)
def test_no_value_that_says_itself_what_it_equals_passes(kind, body, check):
    source = f"import collections, types\n{ANY.replace('KIND', kind)}"
    source += f"any = Any({KINDS[kind]})\ndef f(n):\n    {body}\n"
    test = f"import operator, unittest\ndef check(f):\n    assert {check}\n"
    assert code.judged(source, test, "f", sandbox.Limits(20.0)) in ("error", "tests")


MAPPING = """
import collections.abc
class Any(collections.abc.Mapping):
    def __getitem__(self, key): return 7
    def __iter__(self): return iter(())
    def __len__(self): return 0
    def items(self): return given
"""


@needs_sandbox
def test_comparisons_of_the_library_that_ask_the_answer_do_not_pass():
    source = f"{MAPPING}given = {{'a': 2}}.items()\nf = Any\n"
    test = "def check(f):\n    assert f() == {'a': 2}\n"
    assert code.judged(source, test, "f", sandbox.Limits(20.0)) == "error"


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "check"),
    [
        (
            "@functools.lru_cache(maxsize=None)\ndef f(n): return n if n < 2 else f(n-1) + f(n-2)",
            "f(30) == 832040",
        ),
        ("f = functools.partial(pow, 2)", "f(3) == 8"),
        ("class F:\n    def __call__(self, n): return 2 * n\nf = F()", "f(1) == 2"),
        ("class M(int): pass\ndef f(n): return M(n)", "f(1) == 1 and f(1) in {1} and not f(0)"),
        ("P = collections.namedtuple('P', 'x y')\ndef f(n): return P(n, 2)", "f(1) == (1, 2)"),
        (
            "@dataclasses.dataclass(order=True)\nclass P:\n    x: int\ndef f(n): return P(n)",
            "f(1).x == 1 and f(1) is not None and isinstance(f(1), P) and f(1)",
        ),
        ("class E(enum.Enum):\n    A = 1\ndef f(n): return E(n)", "f(1) == E.A != f(1).value"),
        (
            "class N:\n    def __init__(s, x): s.x = x\n    def __lt__(s, o): return s.x < o.x\n"
            "def f(x): return [n.x for n in sorted(map(N, x))]",
            "f([3, 1, 2]) == [1, 2, 3]",
        ),
        ("def f(n): return fractions.Fraction(n, 2)", "f(1) == 0.5 and abs(f(1) - 0.5) < 1e-6"),
        (
            "def f(s): return collections.Counter(s)",
            "f('aab') == {'a': 2, 'b': 1} and 'a' in f('a')",
        ),
        ("def f(d): return d.keys()", "f({1: 2}) == {1} and 0 < len(f({1: 2})) <= 1"),
        ("def f(n): return (x for x in range(n))", "list(f(3)) == [0, 1, 2] and 2 in f(3)"),
        (
            "def f(n):\n    x = [n]\n    x.append(x)\n    return x",
            "f(1)[0] == 1 and len(f(1)) == 2",
        ),
    ],
)
def test_ordinary_answers_pass_whatever_they_are_made_of(source, check):
    source = f"import collections, dataclasses, enum, fractions, functools\n{source}\n"
    test = f"def check(f):\n    assert {check}\n"
    assert code.judged(source, test, "f", sandbox.Limits(20.0)) is None
    wrong = f"def check(f):\n    assert not ({check})\n"
    assert code.judged(source, wrong, "f", sandbox.Limits(20.0)) == "tests"


@needs_sandbox
def test_an_object_is_not_compared_where_its_class_says_how():
    source = "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nf = P\n"
    for check, wanted in (("f(1) == P(1)", "error"), ("f(1).x == P(1).x", None)):
        test = f"def check(f):\n    assert {check}\n"
        assert code.judged(source, test, "f", sandbox.Limits(20.0)) == wanted
