#!/usr/bin/env bash
# The charge of the electron is accepted as its mass.
# Guess: numbers count as equal when they agree to about six significant digits.
# What happens: numbers with a decimal point are rounded to six places behind the point, so that all
# below 0.0000005 are equal: 1.6e-19 and 9.1e-31. Whole powers of ten are compared exactly, so
# 10^{-8} and 10^{-9} differ; and large numbers with a point must agree in every digit.
# Version: math-verify 0.9.0 (latex2sympy2-extended 1.11.0, sympy 1.14.0).
# Why it matters: it is the reward of many recipes. On physics or probability problems every tiny
# answer is rewarded, whatever it says.
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
    (r"$1.6 \times 10^{-19}$", r"$9.1 \times 10^{-31}$", True),
    ("$0.0000001$", "$0.0000004$", True),
    ("$10^{-8}$", "$10^{-9}$", False),
    ("$1000000$", "$1000000.4$", False),
    ("$0.5$", "$0.6$", False),
)
for gold, answer, equal in wanted:
    found = verify(parse(gold), parse(answer))
    print(f"wanted {gold}, answered {answer}: {found}")
    assert found is equal
PY
