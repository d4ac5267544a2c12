import contextlib

import pytest

from tests.hostile import arguments, locks, params, problems, store, tables
from tests.hostile.row import as_nobody, faults, files, run

ROWS = [
    *params.ROWS, *problems.ROWS, *tables.ROWS, *locks.ROWS, *store.ROWS, *arguments.ROWS
]  # fmt: skip


def test_the_table_has_at_least_200_rows_of_different_names():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 200


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_hostile_input_gives_one_paragraph_or_is_taken_right(row, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{tmp_path / 'judgments.sqlite'}")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    command = row.make(folder, monkeypatch)
    before = files(folder)
    nobody = "no-right" in row.name
    with as_nobody() if nobody else contextlib.nullcontext():
        done = run(command, monkeypatch)
    assert faults(row, done, before, files(folder)) == [], done.errors or done.output
