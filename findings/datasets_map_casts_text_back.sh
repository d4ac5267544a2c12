#!/usr/bin/env bash
# Dataset.map turns the text that a function returns back into the column's old type.
# Guess: a function that returns text for a column of integers gives a column of text.
# What happens: the new values are first cast to the column's old type, and kept so if that works:
# "007" is 7 again, "yes" stays text. So the type depends on the data: one row that is no number
# makes the whole column text, and if that row lies behind the first 1,000 rows, map raises.
# The same function gives text when it writes to a column of another name.
# Version: datasets 5.2.0, pyarrow 26.0.1.
# Why it matters: answers are formatted in place ("007", "1.50", "True") before they become prompts or
# references; the format is lost without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1
cd "$work"
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
venv/bin/python - <<'PY'
import datasets
from datasets import Dataset

datasets.disable_progress_bars()


def padded(row):
    return {"answer": f"{row['answer']:03d}" if row["answer"] < 5000 else "none"}


same = Dataset.from_dict({"answer": [7, 12]}).map(padded)
other = Dataset.from_dict({"answer": [7, 12]}).map(lambda row: {"text": padded(row)["answer"]})
mixed = Dataset.from_dict({"answer": [7, 9999]}).map(padded)
truth = Dataset.from_dict({"answer": [True, False]}).map(lambda row: {"answer": str(row["answer"])})
print("datasets", datasets.__version__)
print("onto the column itself   ", same["answer"][:], same.features["answer"])
print("onto another column      ", other["text"][:], other.features["text"])
print("one row is no number     ", mixed["answer"][:], mixed.features["answer"])
print("str() of booleans        ", truth["answer"][:], truth.features["answer"])
assert same["answer"][:] == [7, 12]
assert other["text"][:] == ["007", "012"]
assert mixed["answer"][:] == ["007", "none"]
assert truth["answer"][:] == [True, False]
try:
    Dataset.from_dict({"answer": [*range(1500), 9999]}).map(padded)
except Exception as error:
    print("the odd row is number 1,500:", type(error).__name__, error)
else:
    raise AssertionError("map no longer raises for a late row")
PY
