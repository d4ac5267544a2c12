"""Which columns `omniopd exp show` has, and that DVC's flags go through."""

import re
import subprocess

import pytest

from pipeline.commands.exp import exp_show

FOLDER = "data/report/metrics"


def row(beta, arms=("omniopd", "sft"), **params):
    metrics = {f"{FOLDER}/{arm}.json": {"accuracy": 0.5, "diff": 0.1} for arm in arms}
    return metrics, {"params.yaml": {"train.beta": beta, "train.lr": 1e-3} | params}


def test_accuracies_and_what_differs_are_shown_and_nothing_else():
    kept, left = exp_show.chosen([row(0.1), row(0.2, **{"arms.sft": 1, "teach.samples": 2})])
    assert kept == [
        (f"{FOLDER}/omniopd.json", "accuracy"),
        (f"{FOLDER}/sft.json", "accuracy"),
        ("params.yaml", "train.beta"),
        ("params.yaml", "teach.samples"),
        ("params.yaml", "arms.sft"),
    ]
    assert left == 0


def test_metrics_that_are_not_the_report_s_are_shown():
    mine = ({"mine.json": {"loss": 1}, f"{FOLDER}.json": {"old.accuracy": 1}}, {})
    assert exp_show.chosen([mine])[0] == [("mine.json", "loss")]


def test_there_are_under_40_columns_and_what_does_not_fit_is_counted():
    many = {f"x{i}": i for i in range(60)}
    kept, left = exp_show.chosen([row(0.1), row(0.1, **many)])
    assert len(kept) + len(exp_show.FIXED) == 39
    assert left == 62 - len(kept)
    assert kept[0][1] == "accuracy"


@pytest.mark.parametrize(
    ("column", "dropped"),
    [
        ("Experiment", False),
        ("Created", False),
        ("train.beta", False),
        (f"{FOLDER}/sft.json:accuracy", False),
        ("accuracy", False),
        ("train.beta2", True),
        ("train_beta", True),
        ("dag/omniopd/seed-0/c1.yaml", True),
        ("code/report.lock", True),
        (f"{FOLDER}/grpo.json:accuracy", True),
    ],
)
def test_every_column_but_those_kept_is_dropped(column, dropped):
    """As DVC matches it: at the beginning of the name."""
    kept = [("params.yaml", "train.beta"), (f"{FOLDER}/sft.json", "accuracy")]
    assert bool(re.match(exp_show.dropping(kept), column)) is dropped


def test_rows_of_every_revision_are_read():
    data = {"metrics": {"m": {"data": {"a": {"b": 1}}}}, "params": {"params.yaml": {"error": "x"}}}
    inner = {"revs": [{"data": data}], "executor": None}
    found = exp_show.revisions(
        [{"data": None, "experiments": [inner]}, {"data": data, "experiments": None}]
    )
    assert list(found) == [({"m": {"a.b": 1}}, {"params.yaml": {}})] * 2


@pytest.mark.parametrize("flags", [["--json", "-A"], ["--help"]])
def test_what_has_no_columns_is_dvc_s_own(flags, monkeypatch):
    asked = []

    def dvc(*words, **_):
        asked.append(list(words))
        return subprocess.CompletedProcess(words, 3, "", "")

    monkeypatch.setattr(exp_show, "_dvc", dvc)
    assert exp_show.show(flags) == 3
    assert asked == [flags]


def test_flags_go_to_dvc_with_what_is_dropped(monkeypatch):
    asked = []

    def dvc(*words, **_):
        asked.append(list(words))
        return subprocess.CompletedProcess(words, 0, "[]", "")

    monkeypatch.setattr(exp_show, "_dvc", dvc)
    assert exp_show.show(["--md", "-n", "3"]) == 0
    assert asked == [
        ["--md", "-n", "3", "--json"],
        ["--md", "-n", "3", "--drop", exp_show.dropping([])],
    ]
