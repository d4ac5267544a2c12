"""Signs of collapse by hand, each alarm fired, and what a report shows of them."""

import json

import pytest

from pipeline.config.alarms import Alarms
from pipeline.core.errors import UserError
from pipeline.report import collapse_section
from pipeline.training import collapse
from tests.training.test_no_signal import Cell

# of the cell's four responses, six equal tokens each, and weights 0, 1 and .5
SIGNS = {
    "tokens": 6,
    "repeated": 2 / 3,
    "entropy": 1,
    "weights_at_0": 1 / 3,
    "weights_at_1": 1 / 3,
    "effective_chunks": 1.5**2 / 1.25,
}


@pytest.fixture
def cell(tmp_path):
    found = Cell(tmp_path)
    found.rollouts([0.1] * 4)
    found.targets([0.0, 1.0, 0.5])
    return found


def test_signs_are_those_counted_by_hand(cell):
    found = collapse.seen(cell.folder / "rollouts.parquet", cell.folder / "targets.parquet")
    assert found == pytest.approx(SIGNS)
    assert collapse.seen(cell.folder / "rollouts.parquet", None).keys() == {*list(SIGNS)[:3]}
    assert collapse.seen(None, None) == {}
    cell.targets([0.0, 0.0])
    assert collapse.seen(None, cell.folder / "targets.parquet")["effective_chunks"] == 0
    cell.targets([])
    assert collapse.seen(None, cell.folder / "targets.parquet") == {}


def test_a_text_repeats_what_it_said_before():
    assert collapse.repeated([1, 2, 3]) == 0  # shorter than a stretch
    assert collapse.repeated([1, 2, 3, 4, 5]) == 0
    assert collapse.repeated([1, 2, 1, 2, 1, 2]) == pytest.approx(1 / 3)
    assert collapse.repeated([7] * 103) == pytest.approx(0.99)


def test_what_a_round_was_is_in_its_run_json_with_its_largest_drift(cell, monkeypatch):
    out = cell.train(monkeypatch, "targets")
    run = json.loads((out / "run.json").read_text())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = SIGNS | {"drift": max(line["train/drift"] for line in lines)}
    found = {name.removeprefix("collapse/"): v for name, v in run.items() if "collapse/" in name}
    assert found == pytest.approx(expected, abs=1e-6)
    assert found["drift"] > 0


BEYOND = {  # by alarm: a bound that these signs break
    "least_tokens": 6.5,
    "most_tokens": 5.5,
    "most_repeated": 0.6,
    "least_entropy": 1.1,
    "most_weights_at_0": 0.3,
    "most_weights_at_1": 0.3,
    "least_effective_chunks": 2,
    "most_drift": 0,
}


@pytest.mark.parametrize("alarm", collapse.LIMITS)
def test_each_alarm_stops_the_stage_which_writes_nothing(alarm, cell, monkeypatch, capsys, caplog):
    (cell.folder / "params.yaml").write_text(f"alarms: {{{alarm}: {BEYOND[alarm]}}}\n")
    with pytest.raises(SystemExit) as stopped:
        cell.train(monkeypatch, "targets")
    assert stopped.value.code == 2
    said = capsys.readouterr().err + caplog.text
    assert f"alarms.{alarm} = {BEYOND[alarm]:g}" in said
    assert f"found {collapse.LIMITS[alarm]} " in said
    assert not (cell.folder / "out/checkpoint").exists()
    assert not (cell.folder / "out/run.json").exists()


@pytest.mark.parametrize("alarm", collapse.LIMITS)
def test_no_alarm_fires_at_its_own_bound_or_where_there_is_nothing_to_read(alarm):
    sign = collapse.LIMITS[alarm]
    at = Alarms.model_validate({alarm: 0.5})
    collapse.check("train c1", {sign: 0.5}, at)
    collapse.check("train c1", {}, at)
    collapse.check("train c1", {sign: 1e9}, Alarms())
    beyond = 0.4 if alarm.startswith("least_") else 0.6
    with pytest.raises(UserError, match=f"alarms.{alarm} = 0.5"):
        collapse.check("train c1", {sign: beyond}, at)


def test_every_alarm_reads_a_sign_and_has_a_remedy_and_a_column():
    assert set(collapse.LIMITS) == set(Alarms.model_fields)
    assert set(collapse.REMEDIES) == set(collapse.SIGNS) == set(collapse_section.HEADS)


def test_the_report_has_first_and_last_rounds_as_means_over_seeds():
    rows = [
        {"arm": arm, "seed": seed, "round": round_, **dict.fromkeys(collapse.SIGNS)}
        | {"tokens": 10.0 * round_ + seed}
        for arm in ("omniopd", "grpo")
        for seed in (0, 1)
        for round_ in (1, 2, 3)
    ]
    head, body = collapse_section.table(rows)
    assert head[:3] == ["arm", "round", "tokens"]
    assert [line[:4] for line in body] == [
        ["omniopd", "1", "10.5", ""],
        ["omniopd", "3", "30.5", ""],
        ["grpo", "1", "10.5", ""],
        ["grpo", "3", "30.5", ""],
    ]
    assert "30.5" in collapse_section.section(rows)
    assert collapse_section.section([]) == ""
