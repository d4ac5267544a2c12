"""What `omniopd repro` and `run` end with, read from results.md as the report writes it."""

from pathlib import Path

import pytest

from pipeline.report import ending

BOLD = "omniopd minus base: +0.427, p below .001, at the full level: **supported**: the interval"
RESULTS = f"""# Results

Sampled accuracy is avg@4.

### Task arithmetic

| arm     | sampled avg@k        | log odds | diff to base | greedy | tokens | teacher tokens |
|---------|----------------------|----------|--------------|--------|--------|----------------|
| base    | 0.263 [0.238, 0.288] | -1.03    |              | 0.155  | 25.5   | 0              |
| omniopd | 0.690 [0.659, 0.719] | 0.80     | +0.427       | 0.780  | 27.0   | 442,112        |

Contrast with other forks: +0.685.

## Verdicts

**omniopd works here**: it is above base.

- {BOLD} is above zero.
- another.

## Calibration

| metric | tokens |
|--------|--------|
| exact  | 2      |
"""
SHOWN = """Task arithmetic

arm      sampled avg@k         diff to base    greedy    teacher tokens
-------  --------------------  --------------  --------  ----------------
base     0.263 [0.238, 0.288]                  0.155     0
omniopd  0.690 [0.659, 0.719]  +0.427          0.780     442,112

omniopd works here: it is above base.

- omniopd minus base: +0.427, p below .001, at the full level: supported: the interval is above
  zero.
- another."""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "data/report"
    folder.mkdir(parents=True)
    (folder / "results.md").write_text(RESULTS)
    return folder


def test_the_deciding_columns_and_the_verdicts_are_shown(report: Path) -> None:
    assert ending.shown(RESULTS) == SHOWN


def test_it_is_said_once_of_each_report(report: Path) -> None:
    before = ending.stamp()
    assert before is None
    assert ending.result(before) == ""  # no report, and none before
    (report / "run.json").write_text("{}")
    assert SHOWN in ending.result(before)
    assert "page: data/report/index.html" in ending.result(before)
    assert ending.result(ending.stamp()) == ""
