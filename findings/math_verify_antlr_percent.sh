#!/usr/bin/env bash
# The version of a parser's runtime decides whether 50% of LaTeX is a half.
# Guess: with math-verify pinned, verdicts are pinned; the ANTLR runtime below it, of which three
# versions are allowed, reads the same grammar in the same way.
# What happens: with antlr4-python3-runtime 4.13.2, "$50\%$" is accepted for 0.5; with 4.11.0 or 4.9.3
# it is the number 50 and refused. Plain "50%" is accepted with all three, for 0.5 and for 50.
# Version: math-verify 0.9.0, latex2sympy2-extended 1.11.0, sympy 1.14.0.
# Why it matters: hydra and omegaconf pin ANTLR 4.9.3. To install either beside the reward function
# changes rewards, while math-verify's own version, which is what one writes down, stays.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q math-verify==0.9.0 latex2sympy2-extended==1.11.0 sympy==1.14.0
cd "$work"
cat >tell.py <<'PY'
import sys
from importlib.metadata import version

from math_verify import parse, verify

latex = sys.argv[1] == "True"
print("math-verify", version("math-verify"), "antlr4-python3-runtime", version("antlr4-python3-runtime"))
wanted = (("$0.5$", r"$50\%$", latex), ("$0.5$", "50%", True), ("$50$", r"$50\%$", True), ("$50$", "50%", True))
for gold, answer, equal in wanted:
    found = verify(parse(gold), parse(answer))
    print(f"wanted {gold}, answered {answer}: {found}")
    assert found is equal
PY
for pair in 4.13.2=True 4.11.0=False 4.9.3=False; do
  venv/bin/pip install -q "antlr4-python3-runtime==${pair%=*}"
  venv/bin/python tell.py "${pair#*=}"
done
