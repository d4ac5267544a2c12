#!/usr/bin/env bash
# A text in a JSON file becomes a point in time if every text of its column looks like a date.
# Guess: a quoted value in a JSON file is text, in whatever way it is written.
# What happens: load_dataset("json") reads "2024-01-05" as a timestamp and gives a datetime back; one
# row that is no date makes the same column text. pandas' reader leaves dates alone and turns "007"
# into 7 instead.
# Version: datasets 5.2.0, pyarrow 26.0.1, pandas 3.1.1.
# Why it matters: a task whose answers are dates gets references that no response can equal
# ("2024-01-05 00:00:00"), and a subset of a file can have another type than the file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1
cd "$work"
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
printf '{"answer": "2024-01-05"}\n{"answer": "2024-02-29"}\n' >dates.jsonl
printf '{"answer": "2024-01-05"}\n{"answer": "unknown"}\n' >mixed.jsonl
printf '{"answer": "007"}\n{"answer": "012"}\n' >zeros.jsonl
venv/bin/python - <<'PY'
import datetime

import datasets
import pandas as pd

datasets.disable_progress_bars()
read = {}
for name in ("dates", "mixed", "zeros"):
    found = datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train", cache_dir="cache")
    read[name] = found["answer"][:], pd.read_json(f"{name}.jsonl", lines=True)["answer"].tolist()
print("datasets", datasets.__version__, "pandas", pd.__version__)
for name, (by_datasets, by_pandas) in read.items():
    print(f"{name:6} datasets {by_datasets}\n       pandas   {by_pandas}")
day = datetime.datetime
assert read["dates"][0] == [day(2024, 1, 5), day(2024, 2, 29)]
assert read["mixed"][0] == ["2024-01-05", "unknown"]
assert read["zeros"][0] == ["007", "012"]
assert read["dates"][1] == ["2024-01-05", "2024-02-29"]
assert read["zeros"][1] == [7, 12]
PY
