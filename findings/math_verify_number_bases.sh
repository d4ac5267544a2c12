#!/usr/bin/env bash
# The base of a number is dropped: 101 in base two equals 101 in base three and 101 itself.
# Guess: 101_2 is 5, or at least a symbol that equals nothing but itself.
# What happens: the subscript is thrown away on both sides. 11_2 is refused for 3 and accepted for 11.
# Version: math-verify 0.9.0 (latex2sympy2-extended 1.11.0, sympy 1.14.0).
# Why it matters: "write it in base b" is a common kind of problem. An answer in the wrong base is
# rewarded and the right number in base ten is not.
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
wanted = (
    ("$101_2$", "$101_3$", True),
    ("$101_2$", "$101$", True),
    ("$11_2$", "$11$", True),
    ("$11_2$", "$3$", False),
)
for gold, answer, equal in wanted:
    found = verify(parse(gold), parse(answer))
    print(f"wanted {gold}, answered {answer}: {found}")
    assert found is equal
PY
