"""Tables and flipped bits: whichever it is, a table is refused or is what was written."""

import random
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.data import arrow_rows, parquet, schemas, tables
from tests.project import ROOT

SOURCES = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/**/*.py")]
OTHER_WAYS = re.compile(
    r"pyarrow\.(parquet|dataset)|from pyarrow import.*(parquet|dataset)|read_parquet|to_parquet"
)


def table(rows=60):
    return pa.Table.from_pylist(
        [
            {
                "rollout_id": f"r{i % 7}",
                "position": i,
                "sample": i % 3,
                "teacher": "t",
                "metric": "edit",
                "similarity": i / 64,
            }
            for i in range(rows)
        ],
        schema=schemas.SCORES,
    )


def rows_of(path):
    return [values for _, values in arrow_rows.parquet(path)]


def streamed(path, most=None):
    parts = tables.stream(path, schemas.SCORES, most=most)
    return [row for part in parts for row in part.to_pylist()]


READERS = (
    lambda path: tables.read(path, schemas.SCORES).to_pylist(),
    streamed,
    lambda path: streamed(path, 7),
    rows_of,
)


@pytest.fixture
def written(tmp_path):
    tables.write(table(), tmp_path / "scores.parquet", schemas.SCORES)
    return tmp_path / "scores.parquet"


@pytest.mark.parametrize("part", ["pages", "footer"])
def test_whichever_bit_of_a_table_is_flipped_no_value_is_another(written, part):
    data = written.read_bytes()
    footer = len(data) - parquet.TAIL - int.from_bytes(data[-8:-4], "little")
    first, last = (0, footer) if part == "pages" else (footer, len(data))
    values, refused = table().to_pylist(), 0
    for seed in range(400):
        bit = random.Random(seed).randrange(8 * first, 8 * last)
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        written.write_bytes(damaged)
        for read in READERS:
            try:
                assert read(written) == values, bit
            except UserError:
                refused += 1
    assert refused > 600


def test_a_damaged_table_names_the_command_that_restores_it(written):
    data = bytearray(written.read_bytes())
    data[200] ^= 1
    written.write_bytes(data)
    for read in (tables.read, lambda *of: list(tables.stream(*of))):
        with pytest.raises(UserError, match=r"scores\.parquet: .*omniopd verify --repair"):
            read(written, schemas.SCORES)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_of_no_rows_has_its_checksums_too(tmp_path, rows):
    path = tmp_path / "small.parquet"
    tables.write(table(rows), path, schemas.SCORES)
    assert parquet.MARK in path.read_bytes()
    assert tables.read(path, schemas.SCORES).equals(table(rows))
    assert pq.read_table(path).equals(table(rows))


def test_tables_without_checksums_are_read(tmp_path):
    path = tmp_path / "old.parquet"
    with pq.ParquetWriter(path, schemas.SCORES, compression="zstd", version="2.6") as out:
        out.write_table(table())  # as versions before wrote it
    assert tables.read(path, schemas.SCORES).equals(table())
    assert rows_of(path) == table().to_pylist()
    with pq.ParquetWriter(path, schemas.SCORES):
        pass  # no rows at all
    assert tables.read(path, schemas.SCORES).num_rows == 0


def test_other_programs_read_what_is_written(written):
    assert pq.read_table(written, page_checksum_verification=True).equals(table())
    assert pd.read_parquet(written).to_dict("records") == table().to_pylist()


def test_nothing_of_ours_reads_or_writes_parquet_in_another_way():
    found = {p.relative_to(ROOT).as_posix() for p in SOURCES if OTHER_WAYS.search(p.read_text())}
    # the second only loads it
    assert found == {"pipeline/data/parquet.py", "pipeline/processes/fork_worker.py"}
