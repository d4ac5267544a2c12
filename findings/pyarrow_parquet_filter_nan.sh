#!/usr/bin/env bash
# Whether a filter on a Parquet file finds a NaN depends on the rows stored beside it.
# Guess: a filter gives the same rows on a table and on the Parquet file of that table.
# What happens: the statistics of a row group leave NaN out. Where 0.0 and NaN share one, they say that
# all is 0.0, and `!= 0`, `is_nan` and `not < 5` skip the group: no rows, no error. In memory, without
# statistics, or with one more number in the group, the NaN is found by is_nan.
# Version: pyarrow 26.0.1.
# Why it matters: this is how one looks for losses and divergences gone bad. A column that is 0 but for
# its NaNs (a masked loss, a KL at the first step) is reported clean.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

kl = pc.field("kl")
filters = {"is_nan": kl.is_nan(), "!= 0": kl != 0, "not < 5": ~(kl < 5)}
tables = {
    "0, NaN": pa.table({"step": [0, 1], "kl": [0.0, float("nan")]}),
    "0, NaN, 1": pa.table({"step": [0, 1, 2], "kl": [0.0, float("nan"), 1.0]}),
}
print("pyarrow", pa.__version__)
found = {}
for rows, table in tables.items():
    pq.write_table(table, "with.parquet")
    pq.write_table(table, "without.parquet", write_statistics=False)
    for name, each in filters.items():
        memory = table.filter(each)["step"].to_pylist()
        file = pq.read_table("with.parquet", filters=each)["step"].to_pylist()
        bare = pq.read_table("without.parquet", filters=each)["step"].to_pylist()
        found[rows, name] = memory, file
        print(f"kl {rows}; {name}: steps in memory {memory}, file {file}, file without statistics {bare}")
        assert bare == memory
assert found["0, NaN", "is_nan"] == ([1], [])
assert found["0, NaN", "!= 0"] == ([1], [])
assert found["0, NaN", "not < 5"] == ([1], [])
assert found["0, NaN, 1", "is_nan"] == ([1], [1])
assert found["0, NaN, 1", "not < 5"] == ([1], [])
PY
