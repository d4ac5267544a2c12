#!/usr/bin/env bash
# Two empty texts are alike or unlike, by the scorer.
# Guess: one library gives one answer for two equal empty texts, in all its 0 to 100 scorers.
# What happens: ratio, partial_ratio and token_sort_ratio say 100; token_set_ratio, WRatio and QRatio
# say 0. WRatio and QRatio say 100 for two texts of one space, token_set_ratio says 0 for them.
# Version: rapidfuzz 3.14.6.
# Why it matters: a model that ends its turn at once writes an empty continuation. Whether two such
# count as agreement changes a score from one end of the scale to the other when the scorer changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q rapidfuzz==3.14.6
cd "$work"
venv/bin/python - <<'PY'
import rapidfuzz
from rapidfuzz import fuzz

print("rapidfuzz", rapidfuzz.__version__)
wanted = {
    "ratio": (100, 100),
    "partial_ratio": (100, 100),
    "token_sort_ratio": (100, 100),
    "token_set_ratio": (0, 0),
    "WRatio": (0, 100),
    "QRatio": (0, 100),
}
for name, scores in wanted.items():
    scorer = getattr(fuzz, name)
    found = scorer("", ""), scorer(" ", " ")
    print(f"{name:17} two empty texts {found[0]:5}  two spaces {found[1]:5}")
    assert found == scores
PY
