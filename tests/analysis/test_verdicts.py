"""Verdicts on evaluations written by hand, and the page that tells them."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline.analysis import costs, pooled, results, seeds_by_problems, verdicts
from pipeline.analysis.results import Evals
from pipeline.analysis.seeds_by_problems import Crossed, Squares
from pipeline.commands.app import app
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.plan import expand, experiment
from pipeline.plan.evaluation import power
from pipeline.report import markdown, verdict_text
from pipeline.stage import run_records
from stages import report as report_stage
from tests.project import MINIATURE

PROBLEMS, K = 40, 4
FIELDS = (
    "arm", "versus", "task", "seeds", "problems", "k", "diff", "low", "high", "df", "p", "p_holm",
    "named", "margin", "verdict", "needed",
)  # fmt: skip


def evals(accuracies, tasks=("sums",), flaw=None):
    """Evals of arms by seed, each with an accuracy: correct where a fixed draw is below it.

    Written as the stage writes them, so in the current folder. `flaw` drops problems of a cell.
    """
    arms = {}
    for arm, seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            round_, key = (0 if arm == "base" else 1), f"{arm}-{seed}"
            arms.setdefault(arm, {})[f"seed-{seed}"] = {f"round-{round_}": {"evaluate": key}}
            rows = [
                {
                    "task": task, "problem_id": f"{task}-{problem}", "sample": sample,
                    "decoding": decoding, "response": "", "extracted": "1",
                    "correct": bool(draw < accuracy), "finish_reason": "stop", "tokens": 5,
                }
                for task in tasks
                for decoding, k in (("greedy", 1), ("sampled", K))
                for problem in range(PROBLEMS - (flaw == key))
                for sample, draw in enumerate(
                    np.random.default_rng([problem, k, seed]).random(k).tolist()
                )
            ]  # fmt: skip
            folder = run_records.folder("evaluate", key)
            table = pa.Table.from_pylist(rows, schema=schemas.EVALS)
            tables.write(table, folder / "evals.parquet", schemas.EVALS)
            (folder / "run.json").write_text('{"seconds": 2.0}')
    return Evals(arms)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SEVERAL = {
    "base": [0.30, 0.28, 0.33, 0.31],
    "omniopd": [0.72, 0.70, 0.69, 0.74],
    "opd": [0.72, 0.70, 0.69, 0.74],
    "sft": [0.80, 0.70, 0.60, 0.84],
    "shuffled-scores": [0.30, 0.35, 0.28, 0.30],
    "wrong-teacher": [0.10, 0.12, 0.15, 0.10],
}


def page(found, split="test"):
    rows = {
        "results": results.results(found),
        "contrasts": results.contrasts(found),
        "pooled": pooled.rows(found),
        "verdicts": verdicts.rows(found, split, verdicts.CLAIMS),
        "branches": [],
        "costs": costs.rows(found.arms),
    }
    json.dumps(rows, allow_nan=False)
    p = SimpleNamespace(split=split, sampled_k=K, per_seed=True, notes=(), match=None)
    return markdown.render(found, rows, {}, p)


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "margin", "wanted"),
    [
        (0.01, 0.30, 0.01, None, "supported"),
        (0.01, 0.30, 0.20, None, "undecided"),  # Holm takes it back
        (0.01, 0.05, 0.01, 0.10, "supported"),  # a gain, though not of the claimed size
        (-0.02, 0.05, 1.0, 0.10, "equivalent"),
        (0.01, 0.05, 0.20, 0.10, "equivalent"),
        (-0.30, 0.05, 1.0, 0.10, "refuted"),
        (-0.05, -0.01, 0.01, 0.10, "refuted"),  # within the margin, but all of it below zero
        (-0.05, -0.01, 0.01, None, "refuted"),
        (-0.05, 0.15, 1.0, 0.10, "undecided"),
        (-0.05, 0.01, 1.0, None, "undecided"),
        (0.0, 0.0, 1.0, None, "equivalent"),
    ],
)
def test_a_verdict_follows_from_the_interval_the_margin_and_holm(low, high, p_holm, margin, wanted):
    assert verdicts.decide(low, high, p_holm, margin) == wanted


def test_holm_is_as_worked_by_hand():
    # in order of size: .005 x 4, .01 x 3, .03 x 2, .04 x 1 and never less than the one before
    assert verdicts.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert verdicts.holm([0.7, 0.9]) == [1.0, 1.0]
    assert verdicts.holm([]) == []


def test_both_readings_of_a_claim_are_kept_and_the_smaller_is_the_margin():
    assert verdicts.margins(30.0, 0.5) == {
        "claim": 30.0, "margin_points": 0.15, "margin_relative": 0.075, "margin": 0.075,
    }  # fmt: skip
    assert set(verdicts.margins(None, 0.5).values()) == {None}


def test_several_seeds_give_each_named_contrast_a_verdict_and_the_rest_none():
    rows = verdicts.rows(evals(SEVERAL), "test", verdicts.CLAIMS)
    by = {(row["arm"], row["versus"]): row for row in rows}
    assert all(set(FIELDS) <= set(row) for row in rows)
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, int | float))
    assert by["omniopd", "base"]["verdict"] == "supported"
    assert by["omniopd", "shuffled-scores"]["verdict"] == "supported"
    equal = by["omniopd", "opd"]
    assert (equal["diff"], equal["low"], equal["high"], equal["p"]) == (0, 0, 0, 1)
    assert equal["verdict"] == "equivalent"
    named = [row for row in rows if row["named"]]
    assert [row["versus"] for row in named] == ["base", "shuffled-scores", "opd", "sft"]
    assert [row["family"] for row in named] == ["primary"] * 2 + ["secondary"] * 2
    assert [row["p_holm"] for row in named[:2]] == [row["p"] for row in named[:2]]
    assert [row["p_holm"] for row in named[2:]] == verdicts.holm([row["p"] for row in named[2:]])
    for row in rows:
        if not row["named"]:
            assert (row["verdict"], row["p_holm"], row["margin"]) == ("exploratory", None, None)
        assert (row["needed"] is not None) == row["verdict"].startswith("undecided")
        assert min(row["sd_seeds"], row["sd_problems"], row["sd_rest"]) >= 0


def test_without_the_primary_pair_the_other_named_contrasts_are_exploratory():
    found = evals(SEVERAL | {"shuffled-scores": SEVERAL["omniopd"]})
    rows = [row for row in verdicts.rows(found, "test", {}) if row["named"]]
    by = {row["versus"]: row for row in rows}
    assert by["base"]["verdict"] == "supported"  # tested at the full level, whatever the other
    assert by["shuffled-scores"]["verdict"] == "equivalent"
    for versus in ("opd", "sft"):
        assert (by[versus]["verdict"], by[versus]["p_holm"]) == ("exploratory", None)
    text = page(found)
    assert "omniopd minus opd" in text.partition("Exploratory")[2]
    assert verdict_text.CLOSED in text
    alone = evals({arm: SEVERAL[arm] for arm in ("base", "omniopd", "sft")})
    rows = [row for row in verdicts.rows(alone, "test", {}) if row["named"]]
    assert [row["verdict"] for row in rows] == ["supported", "exploratory"]


def test_a_p_that_holm_over_all_would_take_back_stands_in_the_primary_pair():
    named = [
        {"versus": versus, "p": p, "low": 0.01, "high": 0.4, "margin": None, "note": None}
        for versus, p in (("base", 0.04), ("shuffled-scores", 0.045), ("opd", 0.02), ("sft", 0.03))
    ]
    assert verdicts.adjust(named) == pytest.approx(
        {"base": 0.04, "shuffled-scores": 0.045, "opd": 0.04, "sft": 0.04}
    )
    named[0]["p"] = 0.06
    assert verdicts.adjust(named) == {"base": 0.06, "shuffled-scores": 0.045}
    assert verdicts.adjust(named[1:]) == {"shuffled-scores": 0.045}


@pytest.mark.parametrize(
    ("level", "said"), [(0.0, "nothing was solved"), (1.0, "everything was solved")]
)
@pytest.mark.parametrize("count", [1, 3])
def test_arms_that_solve_nothing_or_everything_are_undecided_and_never_equivalent(
    level, said, count
):
    found = evals({arm: [level] * count for arm in ("base", "omniopd", "shuffled-scores", "opd")})
    rows = verdicts.rows(found, "test", verdicts.CLAIMS)
    wanted = f"undecided: {said}" if count > 1 else f"{said} in this run"
    for row in rows:
        if row["family"] == "primary":
            assert row["verdict"] == wanted
            assert row["needed"]
        assert row["diff"] == 0
        assert row["low"] < 0 < row["high"]
    text = page(found)
    assert f"undecided: {said}" in text
    assert "equivalent" not in text
    assert "s the method predicts" not in text
    for row in results.results(found):
        assert np.isfinite([v for v in row.values() if isinstance(v, float)]).all()
        limit = 1 - 0.025 ** (1 / PROBLEMS)
        wanted = (0, limit) if level == 0 else (1 - limit, 1)
        assert (row["low"], row["high"]) == pytest.approx(wanted)
        assert np.sign(row["log_odds"]) == (1 if level else -1)
    for row in results.contrasts(found):
        assert row["low"] < 0 < row["high"]
        assert row["note"] == said


@pytest.mark.parametrize(
    ("untrained", "said"),
    [
        ({("opd", seed) for seed in range(4)}, "no round of opd had a signal"),
        ({("opd", 1), ("opd", 3)}, "no round of opd (seed 1, 3) had a signal"),
    ],
)
def test_an_arm_that_had_no_signal_gets_no_verdict(untrained, said):
    arms = SEVERAL | {"opd": SEVERAL["base"]}
    rows = verdicts.rows(evals(arms), "test", {"opd": 10.0}, untrained)
    (row,) = [row for row in rows if (row["arm"], row["versus"]) == ("omniopd", "opd")]
    assert row["low"] > 0
    assert (row["verdict"], row["note"]) == (f"undecided: {said}", said)
    text = verdict_text.verdicts(rows, "test")
    assert f"**undecided: {said}**: such an arm is the base student" in text
    assert "The claim is" not in text
    assert f"opd minus base: +0.000 [+0.000, +0.000], p 1.000 ({said})." in text
    assert {row["verdict"] for row in rows if row["family"] == "primary"} == {"supported"}


def test_of_a_primary_pair_without_a_signal_nothing_is_supported():
    arms = dict.fromkeys(("base", "omniopd", "shuffled-scores", "sft"), SEVERAL["base"])
    never = {(arm, seed) for arm in ("omniopd", "shuffled-scores") for seed in range(4)}
    rows = {r["versus"]: r for r in verdicts.rows(evals(arms), "test", {}, never) if r["named"]}
    assert rows["base"]["verdict"] == "undecided: no round of omniopd had a signal"
    both = "no round of omniopd and shuffled-scores had a signal"
    assert rows["shuffled-scores"]["verdict"] == f"undecided: {both}"
    assert rows["sft"]["verdict"] == "exploratory"
    (one, *_) = verdicts.rows(
        evals({arm: seeds[:1] for arm, seeds in arms.items()}), "test", {}, never
    )
    assert one["verdict"] == "no round of omniopd had a signal in this run"


def test_of_several_tasks_each_weighs_alike_in_the_headline():
    arms = {arm: SEVERAL[arm][:2] for arm in ("base", "omniopd")}
    found = evals(arms, ("sums", "words"))
    table = found.tables["omniopd", 0, 1]
    words = pc.equal(table["task"], "words")
    late = pc.greater_equal(pc.utf8_length(table["problem_id"]), 8)
    for key in found.tables:  # 30 of the 40 problems of one task go
        found.tables[key] = found.tables[key].filter(pc.invert(pc.and_(words, late)))
    rows = {r["task"]: r for r in pooled.rows(found) if r["arm"] == "omniopd"}
    assert rows["words"]["problems"] < rows["sums"]["problems"]
    mean = (rows["sums"]["accuracy"] + rows["words"]["accuracy"]) / 2
    assert rows["all"]["accuracy"] == pytest.approx(mean)
    assert rows["all"]["accuracy"] != pytest.approx(rows["sums"]["accuracy"], abs=1e-4)
    by_seed = [r for r in results.results(found) if r["decoding"] == "sampled"]
    for seed in range(2):
        own = {
            r["task"]: r["accuracy"] for r in by_seed if (r["arm"], r["seed"]) == ("omniopd", seed)
        }
        assert own["all"] == pytest.approx((own["sums"] + own["words"]) / 2)
    assert "Task all is the mean over sums, words, each weighed alike." in page(found)


def test_rows_are_those_of_the_crossed_layout():
    found = evals(SEVERAL)
    row = next(r for r in verdicts.rows(found, "test", {}) if r["versus"] == "sft")
    plain = np.array([
        found.graded("omniopd", seed, 1, "sums", "sampled").share_B
        - found.graded("sft", seed, 1, "sums", "sampled").share_B
        for seed in range(4)
    ])  # fmt: skip
    wanted = seeds_by_problems.crossed(plain, lowest=-1.0)
    assert (row["diff"], row["low"], row["high"]) == (wanted.value, wanted.low, wanted.high)
    assert (row["seeds"], row["problems"], row["k"]) == (4, PROBLEMS, K)


def test_one_seed_gives_no_verdict():
    found = evals({arm: seeds[:1] for arm, seeds in SEVERAL.items()})
    rows = verdicts.rows(found, "test", verdicts.CLAIMS)
    assert {row["verdict"] for row in rows} <= {
        "seen in this run", "no difference seen in this run",
    }  # fmt: skip
    assert {row["needed"] for row in rows} == {verdicts.ONE_SEED}
    assert {row["p_holm"] for row in rows} == {None}
    equal = next(row for row in rows if row["versus"] == "opd")
    assert (equal["diff"], equal["low"], equal["high"], equal["p"]) == (0, 0, 0, 1)
    assert "above zero in this run" in page(found)
    assert "## Verdicts" not in page(found)


@pytest.mark.parametrize("count", [1, 4])
def test_dev_gives_no_verdict(count):
    found = evals({arm: seeds[:count] for arm, seeds in SEVERAL.items()})
    rows = verdicts.rows(found, "dev", verdicts.CLAIMS)
    assert {(row["verdict"], row["p_holm"]) for row in rows} == {("no verdict on dev", None)}
    text = page(found, "dev")
    assert verdict_text.ON_DEV in text
    assert "**" not in text
    assert "split dev" in text


def test_of_several_tasks_the_pooled_one_is_judged():
    rows = verdicts.rows(evals(SEVERAL, ("sums", "words")), "test", verdicts.CLAIMS)
    assert {row["task"] for row in rows} == {"sums", "words", "all"}
    assert {row["task"] for row in rows if row["named"]} == {"all"}
    assert {row["problems"] for row in rows if row["named"]} == {2 * PROBLEMS}


def test_a_seed_with_fewer_problems_is_refused():
    found = evals(SEVERAL, flaw="sft-2")
    with pytest.raises(UserError, match="seed 2 has 39 problems, wanted the 40"):
        verdicts.rows(found, "test", {})


def test_the_page_of_several_seeds_has_one_table_and_says_whether_the_method_works():
    found = evals(SEVERAL)
    text = page(found)
    results_part = text.partition("## Verdicts")[0]
    (line,) = [x for x in results_part.splitlines() if x.startswith("| omniopd ")]
    (row,) = [r for r in pooled.rows(found) if r["arm"] == "omniopd"]
    assert f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in line
    assert f"{row['diff']:+.3f} [{row['diff_low']:+.3f}, {row['diff_high']:+.3f}]" in line
    assert "**supported**" in text
    assert "omniopd works here" in text
    assert "no verdict" in text.partition("Exploratory")[2]
    assert "The claim is +28.64 %; half of it is 14.3 points, or" in text
    assert "conditional on this run" not in text


def test_omniopd_does_not_work_if_shuffled_scores_do_as_well():
    text = page(evals(SEVERAL | {"shuffled-scores": SEVERAL["omniopd"]}))
    assert "omniopd works here" not in text
    assert "That omniopd works is not shown" in text


def test_the_base_student_has_no_difference_and_pooled_numbers_are_finite():
    rows = pooled.rows(evals(SEVERAL))
    base = next(row for row in rows if row["arm"] == "base")
    assert (base["diff"], base["diff_low"], base["diff_high"]) == (0, 0, 0)
    for row in rows:
        assert row["low"] <= row["accuracy"] <= row["high"]


@pytest.mark.parametrize("margin", [None, 0.08])
def test_what_is_needed_would_decide_and_one_less_would_not(margin):
    squares = Squares(0.30, 0.20, 0.12)
    low, high, df, p = map(float, seeds_by_problems.interval(0.06, squares, 4, 60))
    found = Crossed(0.06, low, high, df, p, 4, 60, squares)
    assert verdicts.decide(low, high, p, margin) == "undecided"

    def verdict(seeds, problems):
        more = seeds_by_problems.expected(squares, 4, 60, seeds, problems)
        low, high, _, p = seeds_by_problems.interval(0.06, more, seeds, problems)
        return verdicts.decide(low, high, p, margin)

    text = verdicts.needed(found, p, margin)
    words = text.replace(",", "").split()
    seeds = int(words[words.index("seeds") - 1])
    assert verdict(seeds, 60) != "undecided"
    assert verdict(seeds - 1, 60) == "undecided"
    if "problems" in words:
        problems = int(words[words.index("problems") - 1])
        assert verdict(4, problems) != "undecided"
        assert verdict(4, problems - 1) == "undecided"
    else:
        assert verdict(4, verdicts.MOST_PROBLEMS) == "undecided"


def test_nothing_is_needed_that_could_not_decide():
    squares = Squares(0.3, 0.2, 0.12)
    low, high, df, p = map(float, seeds_by_problems.interval(0.0, squares, 4, 60))
    text = verdicts.needed(Crossed(0.0, low, high, df, p, 4, 60, squares), p, None)
    assert text.startswith("no number of seeds up to 100")


def test_claims_are_part_of_the_report_only_where_they_are_set(tmp_path):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())

    def report(**more):
        values["experiment"].update(more)
        with (tmp_path / "params.yaml").open("w") as file:
            YAML().dump(values, file)
        (cell,) = expand.expand(experiment.load(tmp_path / "params.yaml"))["cells"][
            "report"
        ].values()
        return cell["params"]

    assert "claims" not in report()
    assert report(claims={"opd": 10})["claims"] == {"opd": 10.0}
    with pytest.raises(UserError, match=r"experiment\.claims\.grpo"):
        report(claims={"grpo": 10})


def test_plan_tells_the_smallest_difference_before_anything_is_trained(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(MINIATURE.read_text())
    monkeypatch.setattr(
        "pipeline.runner.dag.plan_files.write", lambda: expand.expand(experiment.load())
    )
    done = CliRunner().invoke(app, ["plan"])
    assert "smallest difference seen with 80% power: " in done.stdout
    assert "(1 seed, 24 problems, avg@2; assumed sd " in done.stdout


def test_with_several_seeds_the_smallest_difference_is_told_by_contrast(tmp_path):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"] |= {"seeds": [0, 1, 2], "arms": ["omniopd", "opd", "shuffled-scores"]}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    file = experiment.load(tmp_path / "params.yaml")
    text = power.line(file)
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "omniopd minus base", "omniopd minus shuffled-scores", "omniopd minus opd",
    ]  # fmt: skip
    assert text.count("assumed from earlier studies") == 3
    report = tmp_path / "data" / "report"
    report.mkdir(parents=True)
    (report / "verdicts.json").write_text(json.dumps(verdicts.rows(evals(SEVERAL), "test", {})))
    (report / "run.json").write_text(json.dumps({"students": "c0of0another"}))
    assert power.line(file) == text
    cells = expand.expand(file)["cells"]
    (params,) = [cell["params"] for cell in cells["report"].values()]
    (report / "run.json").write_text(
        json.dumps({"students": report_stage.students(params["arms"])[0]})
    )
    text = power.line(file)
    assert text.count("measured on 4 seeds: data/report/verdicts.json") == 3


@pytest.mark.parametrize("per_seed", [True, False])
def test_answers_of_one_base_student_are_noise_that_more_seeds_do_not_average(per_seed, tmp_path):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["pretrain"]["per_seed"] = per_seed

    def told(seeds, samples):
        values["experiment"] |= {"seeds": list(range(seeds)), "arms": ["omniopd", "opd"]}
        values["evaluate"]["samples"] = samples
        with (tmp_path / "params.yaml").open("w") as file:
            YAML().dump(values, file)
        line = power.line(experiment.load(tmp_path / "params.yaml")).splitlines()[1]
        return float(line.partition("base: ")[2].partition(" points")[0])

    few, many, surer = told(6, 1), told(60, 1), told(60, 16)
    noise = math.sqrt(power.WITHIN / values["evaluate"]["problems"]) * 100  # points, of base
    assert few > many > surer
    assert (many > 2.8 * noise) == (not per_seed)  # 1.96 + .84: two-sided .05, power .8
