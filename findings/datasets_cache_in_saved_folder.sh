#!/usr/bin/env bash
# Reading a saved dataset writes into its folder.
# Guess: load_from_disk and a map or filter of it leave the saved folder as it is; caches lie in the
# cache folder.
# What happens: map and filter write cache-*.arrow beside data-*.arrow. A glob of *.arrow then finds
# files with other rows (map) and files with row numbers alone (filter). Only state.json says which
# files are the dataset.
# Version: datasets 5.2.0, pyarrow 26.0.1.
# Why it matters: who hashes, copies or globs a folder of rollouts gets other data than was saved
# after anyone has looked at it with a filter.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1
cd "$work"
export HF_HOME="$work/home" HF_HUB_OFFLINE=1
venv/bin/python - <<'PY'
import json
from pathlib import Path

import datasets
import pyarrow as pa

datasets.disable_progress_bars()
folder = Path("rollouts")
datasets.Dataset.from_dict({"reward": [1, 2, 3]}).save_to_disk(folder)
before = sorted(path.name for path in folder.iterdir())
saved = datasets.load_from_disk(folder)
saved.map(lambda row: {"reward": row["reward"] * 100})
saved.filter(lambda row: row["reward"] > 1)
print("datasets", datasets.__version__)
print("before", before)
rows = {}
for path in sorted(folder.glob("*.arrow")):
    rows[path.name] = pa.ipc.open_stream(path.read_bytes()).read_all().to_pydict()
    print("after ", path.name, rows[path.name])
listed = [each["filename"] for each in json.loads((folder / "state.json").read_text())["_data_files"]]
print("state.json lists", listed)
assert [name for name in before if name.endswith(".arrow")] == listed == ["data-00000-of-00001.arrow"]
assert rows.pop(listed[0]) == {"reward": [1, 2, 3]}
assert sorted(map(str, rows.values())) == ["{'indices': [1, 2]}", "{'reward': [100, 200, 300]}"]
PY
