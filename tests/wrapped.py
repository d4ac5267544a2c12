"""Right and wrong programs, and the wrappings in which models hand them over."""

import textwrap

# name: prompt's signature line, body, a body that is wrong, tests
BODIES = {
    "total": ("xs", "sum(x * x for x in xs)", "sum(xs)", "f([1, 2]) == 5 and f([]) == 0"),
    "largest": ("xs", "max(xs)", "min(xs)", "f([1, 3, 2]) == 3"),
    "flipped": ("s", "s[::-1]", "s", "f('abc') == 'cba'"),
    "vowels": ("s", "sum(c in 'aeiou' for c in s)", "len(s)", "f('banana') == 3"),
    "unique": ("xs", "sorted(set(xs))", "sorted(xs)", "f([2, 1, 2]) == [1, 2]"),
    "power": ("a, b", "a ** b", "a * b", "f(2, 5) == 32"),
    "even": ("n", "n % 2 == 0", "n % 2 == 1", "f(4) is True and f(3) is False"),
    "words": ("s", "s.split()", "list(s)", "f('a b') == ['a', 'b']"),
    "pairs": (
        "xs",
        "list(zip(xs, xs[1:]))",
        "list(zip(xs, xs))",
        "f([1, 2, 3]) == [(1, 2), (2, 3)]",
    ),
    "clipped": ("x", "min(max(x, 0), 1)", "min(x, 1)", "f(-1) == 0 and f(2) == 1"),
}


def styles(name, args, value):
    """Six ways to write the function."""
    return {
        "plain": f"def {name}({args}):\n    return {value}\n",
        "typed": (
            f"from typing import Any\n\n\ndef {name}({args}) -> Any:\n"
            f'    """Does it."""\n    result = {value}\n    return result\n'
        ),
        "helper": f"def helper({args}):\n    return {value}\n\n\ndef {name}({args}):\n"
        f"    return helper({args})\n",
        "future": f"from __future__ import annotations\n\n\ndef {name}({args}) -> Any:\n"
        f"    return {value}\n",
        "docstring with a fence": f'def {name}({args}):\n    """\n    ```\n    {name}(...)\n'
        f'    ```\n    """\n    return {value}\n',
        "constant": f"LIMIT = 0\n\n# the function\ndef {name}({args}):\n"
        f"    if LIMIT:\n        return None\n    return {value}\n",
    }


def apart(source):
    """The first statements in a fence of their own."""
    head, found, rest = source.partition("\n\n\n")
    if not found:
        return f"```python\n{source}```"
    return f"First:\n```python\n{head}\n```\nThen:\n```python\n{rest}```"


WRAPPINGS = {
    "nothing": lambda s, n: s,
    "fence": lambda s, n: f"```python\n{s}```",
    "fence without a language": lambda s, n: f"Sure!\n\n```\n{s}```\nDone.",
    "tildes": lambda s, n: f"~~~python\n{s}~~~",
    "four backticks": lambda s, n: f"````py\n{s}````",
    "open fence": lambda s, n: f"Here:\n```python\n{s}",
    "indented fence": lambda s, n: "1. So:\n" + textwrap.indent(f"```python\n{s}```", "   "),
    "list": lambda s, n: f"- ```python\n{textwrap.indent(s, '  ')}  ```",
    "quoted": lambda s, n: textwrap.indent(f"```python\n{s}```\n", "> ", lambda line: True),
    "prose around": lambda s, n: f"Here is the function:\n\n{s}\nThis works because it's so.\n",
    "prose that ends in a colon": lambda s, n: f"I use this:\n{s}\nNote: it's fast.\n",
    "usage in a later fence": lambda s, n: (
        f"```python\n{s}```\nUsage:\n```python\nprint({n}())\n```"
    ),
    "usage in an earlier fence": lambda s, n: f"```python\nprint({n}())\n```\n```python\n{s}```",
    "output in a later fence": lambda s, n: f"```python\n{s}```\nOutput:\n```\n5 apples\n```",
    "shell in an earlier fence": lambda s, n: f"```bash\npip install x\n```\n```python\n{s}```",
    "two fences": lambda s, n: apart(s),
    "thought": lambda s, n: (
        f"<think>\n```python\ndef {n}(*a): pass\n```\n</think>\n```python\n{s}```"
    ),
    "a stub after it": lambda s, n: (
        f"```python\n{s}```\nfor\n```python\ndef {n}(*a):\n    ...\n```"
    ),
    "a draft before it": lambda s, n: (
        f"```\ndef {n}(*a):\n    return 0/0\n```\nBetter:\n```\n{s}```"
    ),
    "tags and line ends of Windows": lambda s, n: f"<code>\n{s}</code>".replace("\n", "\r\n"),
}
