#!/usr/bin/env bash
# The order of a SET decides whether it equals a pair, and whether it does depends on the pair.
# Guess: a pair equals a set always, never, or by its members in any order.
# What happens: (1,2) is read as the open interval from 1 to 2 and (2,1) as a pair. For a gold of (1,2)
# the answer {1,2} is right and {2,1} is wrong. For a gold of {1,2} the answer (2,1) is right.
# Version: math-verify 0.9.0 (latex2sympy2-extended 1.11.0, sympy 1.14.0).
# Why it matters: coordinates and sets of roots are common answers. One set gets both verdicts by how
# the student wrote it, and swapping gold and answer changes the verdict again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q math-verify==0.9.0 latex2sympy2-extended==1.11.0 antlr4-python3-runtime==4.9.3 sympy==1.14.0
cd "$work"
venv/bin/python - <<'PY'
from importlib.metadata import version

from math_verify import parse, verify

print("math-verify", version("math-verify"))
for text in ("$(1,2)$", "$(2,1)$"):
    print(text, "is read as", type(parse(text)[0]).__name__)
assert type(parse("$(1,2)$")[0]).__name__ == "Interval"
assert type(parse("$(2,1)$")[0]).__name__ == "Tuple"
wanted = (
    ("$(1,2)$", r"$\{1,2\}$", True),
    ("$(1,2)$", r"$\{2,1\}$", False),
    (r"$\{2,1\}$", "$(1,2)$", True),
    (r"$\{1,2\}$", "$(2,1)$", True),
    ("$(1,2)$", "$(2,1)$", False),
)
for gold, answer, equal in wanted:
    found = verify(parse(gold), parse(answer))
    print(f"wanted {gold}, answered {answer}: {found}")
    assert found is equal
PY
