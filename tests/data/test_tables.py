import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables

ROW = {
    "rollout_id": "r",
    "position": 3,
    "sample": 0,
    "teacher": "t",
    "metric": "edit",
    "similarity": 0.5,
}


def scores(**changes):
    return pa.Table.from_pylist([ROW | changes], schema=schemas.SCORES)


def test_a_table_comes_back_as_it_was_written(tmp_path):
    tables.write(scores(), tmp_path / "scores.parquet", schemas.SCORES)
    assert tables.read(tmp_path / "scores.parquet", schemas.SCORES).to_pylist() == [ROW]
    assert tables.rows(tmp_path / "scores.parquet", schemas.SCORES) == 1


def test_equal_tables_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        tables.write(scores(), tmp_path / name, schemas.SCORES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_pandas_wrote_is_read_with_our_types(tmp_path):
    plain = pa.table({name: [value] for name, value in ROW.items()})
    assert plain.schema.field("position").type == pa.int64()
    pq.write_table(plain, tmp_path / "scores.parquet")
    assert tables.read(tmp_path / "scores.parquet", schemas.SCORES).schema == schemas.SCORES


def test_missing_and_unexpected_columns_are_named(tmp_path):
    other = scores().drop_columns(["metric"]).append_column("colour", pa.array(["red"]))
    pq.write_table(other, tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=r"missing \['metric'\], unexpected \['colour'\]"):
        tables.read(tmp_path / "scores.parquet", schemas.SCORES)


def test_a_wrong_type_is_named(tmp_path):
    pq.write_table(pa.table({n: [str(v)] for n, v in ROW.items()}), tmp_path / "scores.parquet")
    with pytest.raises(UserError, match="column position is string, wanted int32"):
        tables.read(tmp_path / "scores.parquet", schemas.SCORES)


def test_a_null_where_none_may_be_is_refused(tmp_path):
    nullable = pa.schema([field.with_nullable(True) for field in schemas.SCORES])
    pq.write_table(pa.Table.from_pylist([ROW | {"teacher": None}], schema=nullable), tmp_path / "s")
    with pytest.raises(UserError, match="teacher"):
        tables.read(tmp_path / "s", schemas.SCORES)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "scores.parquet"
    tables.write(scores(), path, schemas.SCORES)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), tables.writer(path, schemas.SCORES) as out:  # noqa: PT012
        out.write_table(scores(similarity=1.0))
        raise RuntimeError
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["scores.parquet"]


def test_long_tables_stream_in_groups(tmp_path):
    rows = pa.Table.from_pylist([ROW | {"position": i} for i in range(2500)], schema=schemas.SCORES)
    tables.write(rows, tmp_path / "s", schemas.SCORES)
    groups = list(tables.stream(tmp_path / "s", schemas.SCORES))
    assert [len(group) for group in groups] == [1024, 1024, 452]
    assert pa.concat_tables(groups).equals(rows)


def test_arrow_gives_freed_memory_back_in_a_stage_and_in_the_server_that_forks_them():
    environment = {n: v for n, v in os.environ.items() if n != "ARROW_DEFAULT_MEMORY_POOL"}
    for first in ("stages.rollout", "pipeline.processes.fork_worker"):
        code = f"import {first}, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "system\n"
