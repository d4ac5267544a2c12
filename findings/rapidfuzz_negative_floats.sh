#!/usr/bin/env bash
# The edit distance of [-1.0] and [-2.0] is 0, that of [-1] and [-1.0] is 1.
# Guess: rapidfuzz compares the members of two lists as Python does: 1 == 1.0, -1 == -1.0, -1.0 != -2.0.
# What happens: whole numbers stand for themselves and all else for its hash, and in CPython
# hash(-1.0) is -2. So -1.0 equals -2.0 and -2, and does not equal -1. For 5 and 5.0 all is as guessed.
# Version: rapidfuzz 3.14.6, CPython 3.
# Why it matters: token ids and labels turn to floats in a column with gaps, where -1 marks what is
# padded or masked; lists of rewards hold -1.0 and -2.0. Similarities of such lists are wrong for just
# these values.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q rapidfuzz==3.14.6
cd "$work"
venv/bin/python - <<'PY'
import rapidfuzz
from rapidfuzz.distance import Levenshtein

print("rapidfuzz", rapidfuzz.__version__)
wanted = (
    ([5], [5.0], 0),
    ([-3.0], [-4.0], 1),
    ([-1.0], [-2.0], 0),
    ([-1], [-1.0], 1),
    ([17, 4, -1], [17.0, 4.0, -1.0], 1),
)
for one, other, distance in wanted:
    found = Levenshtein.distance(one, other)
    print(f"{one} to {other}: {found} (equal in Python: {one == other})")
    assert found == distance
PY
