"""The rows that the benchmarks write, and that the loss which is timed is one and the same loss."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import gpu, loss, measure, stages, written
from pipeline.code_digest import variants
from pipeline.plan import expand, experiment
from tests.project import MINIATURE

FIELDS = {"name", "value", "unit", "peer", "peer_value", "ratio", "finite", "better"}
FIELDS |= {"repeats", "spread"}


def test_a_row_holds_medians_of_what_was_measured_in_turn():
    found = measure.row("x", "s", "lower", "theirs", [1.0, 2.0, 9.0], [2.0, 2.0, 3.0])
    assert found.keys() == FIELDS
    assert (found["value"], found["peer_value"], found["ratio"]) == (2.0, 2.0, 1.0)
    assert (found["spread"], found["repeats"], found["finite"]) == (2.5, 3, True)
    assert not measure.row("x", "s", "lower", "theirs", [math.inf], [1.0])["finite"]


def test_a_peak_counts_what_was_freed_again():
    size = 256 << 20

    def work():
        bytearray(size).replace(b"\0", b"x")

    assert 400 < measure.peak(work)["mib"] < 600  # twice, less what was free before


def test_all_topics_run_where_none_is_named_and_each_replaces_its_own_rows(tmp_path, monkeypatch):
    names = {topic: f"{topic}_x" for topic in bench.ALL}
    names |= {"stages": "time_x_100x", "start": "stage_start_x"}
    told = ("s", "lower", "theirs", [1.0], [2.0])
    old = [measure.row(name, *told) for name in ("loss_old", "teach_y", "time_train_100x")]
    for name in ("RESULTS", "TABLE"):
        monkeypatch.setattr(bench, name, tmp_path / name)
    bench.RESULTS.write_text(json.dumps(old))

    def run(command, env, check):
        (topic,), out = command[3:4], Path(command[-1])
        out.write_text(json.dumps([measure.row(names[topic], *told)]))
        return subprocess.CompletedProcess(command, topic == "teach")

    monkeypatch.setattr(bench.subprocess, "run", run)
    monkeypatch.setattr(bench, "_environment", lambda topic: {})
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    with pytest.raises(SystemExit, match="failed: teach"):
        bench.main()
    found = [row["name"] for row in json.loads(bench.RESULTS.read_text())]
    # what failed and what was not asked for is what it was
    assert found == [*(names | {"teach": "teach_y"}).values(), "time_train_100x"]


def test_the_three_losses_that_are_compared_agree():
    pytest.importorskip("trl")
    loss.agree()


def test_the_stages_that_are_measured_load_the_code_of_the_miniatures():
    plan = expand.expand(experiment.load(MINIATURE))["cells"]
    for stage, cells in written._cells(64).items():
        ((_, cell),) = cells.items()
        assert variants.of(stage, cell).name == next(iter(plan[stage].values()))["code"], stage


@pytest.mark.slow
def test_every_stage_that_is_measured_runs(tmp_path):
    written.project(tmp_path, 64)
    for stage in stages.STAGES:
        assert stages.run(tmp_path, stage).rows > 0, stage


def of_a_gpu(tmp_path, **env):
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "gpu",
        "--into",
        tmp_path,
        tmp_path / "rows.json",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(command, cwd=bench.HERE.parent, env=env, capture_output=True, text=True)


def test_the_rows_of_a_gpu_are_measured_in_small_on_a_cpu(tmp_path):
    done = of_a_gpu(tmp_path, SIZE="small")
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    named = set(re.findall(r"\bgpu_\w+", gpu.__doc__)) - {"gpu_tests"}
    missing = {name for name in named - found.keys() if "is left out" not in done.stderr}
    assert found.keys() <= named
    assert not missing
    assert not {name: row for name, row in found.items() if not row["finite"]}
    assert all(row["peer_value"] > 8 for name, row in found.items() if "memory" in name)
    assert 0 < found["gpu_gap_logp"]["value"] < 0.1  # bfloat16 is not float32


def test_without_a_gpu_it_says_how_it_can_be_tried(tmp_path):
    done = of_a_gpu(tmp_path)
    assert done.returncode == 1
    assert "found no GPU. SIZE=small" in done.stderr


@pytest.mark.skipif(not bench.RESULTS.is_file(), reason="`make bench` has not run here")
def test_the_committed_results_hold_the_rows_that_must_be_there():
    found = {row["name"]: row for row in json.loads(bench.RESULTS.read_text())}
    assert set(bench.MANDATORY) <= found.keys()
    for row in found.values():
        assert row.keys() == FIELDS
        numbers = [row[name] for name in ("value", "peer_value", "ratio", "spread")]
        assert row["finite"] is True
        assert all(map(math.isfinite, numbers))
        assert row["better"] in ("higher", "lower")
    assert bench.TABLE.read_text() == bench.table(list(found.values()))
