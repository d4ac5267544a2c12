"""experiment.branch in the plan, and its effects from hand-made evaluations."""

import re

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from pipeline.analysis import score_effects, seeds_by_problems
from pipeline.analysis.results import Evals
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.plan import expand as plan
from pipeline.plan import experiment
from pipeline.runner import cell_graph
from tests.project import MINIATURE

CONTROLS = ["shuffled-scores", "constant-scores"]


def expand(tmp_path, controls, arms=("omniopd",), seeds=(0,), **overrides):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"] |= {"rounds": 2, "branch": list(controls), "arms": list(arms)}
    values["experiment"]["seeds"] = list(seeds)
    values["arms"] |= overrides
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return plan.expand(experiment.load(tmp_path / "params.yaml"))


def test_a_branch_differs_from_its_round_in_the_targets_alone(tmp_path):
    cells = expand(tmp_path, CONTROLS, seeds=(0, 1))["cells"]
    for control in CONTROLS:
        for seed in ("seed-0", "seed-1"):
            for round_ in ("round-1", "round-2"):
                own = cells["branches"][control][seed][round_]
                real = cells["arms"]["omniopd"][seed][round_]
                changed, same = cells["train"][own["train"]], cells["train"][real["train"]]
                # the params hold seed and round, which the batch order is drawn from
                assert {k for k in same if changed[k] != same[k]} == {"targets"}
                evaluated = cells["evaluate"][own["evaluate"]]
                assert evaluated["policy"] == f"data/train/{own['train']}"
                theirs = cells["evaluate"][real["evaluate"]]
                assert {k for k in theirs if evaluated[k] != theirs[k]} == {"policy"}
                assert not {"rollout", "forks", "teach"} & set(own)


def test_branches_ask_no_teacher_and_sample_no_rollout(tmp_path):
    with_, without = expand(tmp_path, CONTROLS)["cells"], expand(tmp_path, [])["cells"]
    for group in ("rollout", "forks", "teach", "pretrain", "prepare"):
        assert with_[group] == without[group]
    for group in ("score", "prior", "train", "evaluate"):
        assert set(with_[group]) > set(without[group])
    assert without["branches"] == {}


def test_round_1_of_a_branch_is_that_of_the_arm_of_its_name_and_round_2_is_not(tmp_path):
    cells = expand(tmp_path, CONTROLS, arms=["omniopd", *CONTROLS])["cells"]
    for control in CONTROLS:
        own, arm = cells["branches"][control]["seed-0"], cells["arms"][control]["seed-0"]
        assert own["round-1"]["train"] == arm["round-1"]["train"]
        assert own["round-2"]["train"] != arm["round-2"]["train"]
    (constant,) = {
        cells["prior-control"][cells["branches"]["constant-scores"]["seed-0"][r]["prior"]][
            "controlled"
        ]
        == cells["arms"]["omniopd"]["seed-0"][r]["prior"]
        for r in ("round-1", "round-2")
    }
    assert constant


def test_a_branch_keeps_what_arm_omniopd_overrides(tmp_path):
    cells = expand(tmp_path, CONTROLS[:1], omniopd={"train": {"lr": 0.5}})["cells"]
    assert {cell["params"]["lr"] for cell in cells["train"].values()} == {0.5}


def test_every_round_of_omniopd_is_evaluated_where_it_is_branched_off(tmp_path):
    cells = expand(tmp_path, CONTROLS, arms=["omniopd", "grpo"])["cells"]["arms"]
    assert all("evaluate" in stages for stages in cells["omniopd"]["seed-0"].values())
    assert "evaluate" not in cells["grpo"]["seed-0"]["round-1"]
    assert "evaluate" not in expand(tmp_path, [])["cells"]["arms"]["omniopd"]["seed-0"]["round-1"]


def test_cells_of_a_branch_are_named_for_people(tmp_path):
    found = expand(tmp_path, ["shuffled-scores"])
    key = found["cells"]["branches"]["shuffled-scores"]["seed-0"]["round-2"]["train"]
    label = cell_graph.graph(found, gpu=False)[f"train@{key}"].label
    assert label == f"train omniopd+shuffled-scores round 2 seed 0 ({key})"


@pytest.mark.parametrize(
    ("controls", "arms", "overrides", "said"),
    [
        (["nosuch"], ["omniopd"], {}, "experiment.branch: 'nosuch' is not defined"),
        (["grpo"], ["omniopd"], {}, "'grpo', wanted an arm that overrides score and prior alone"),
        (["omniopd"], ["omniopd"], {}, "'omniopd', wanted an arm that differs"),
        (["same"], ["omniopd"], {"same": {"prior": {"alpha": 1.0}}}, "'same', wanted an arm that"),
        (CONTROLS[:1] * 2, ["omniopd"], {}, "wanted each control once"),
        (CONTROLS, ["grpo"], {}, "wanted omniopd in experiment.arms"),
        (
            ["other"],
            ["omniopd", "uniform-forks"],
            {"other": {"prior": {"source": "constant", "controls": "uniform-forks"}}},
            "arms.other.prior.controls: found 'uniform-forks', wanted omniopd",
        ),
    ],
)
def test_what_is_no_control_is_refused(tmp_path, controls, arms, overrides, said):
    with pytest.raises(UserError, match=re.escape(said)):
        expand(tmp_path, controls, arms=arms, **overrides)


def write(folder, key, correct):
    """An evals table: two samples a problem, as `correct` says."""
    rows = [
        {
            "task": "arithmetic", "problem_id": f"p{i // 2}", "sample": i % 2,
            "decoding": decoding, "response": "", "extracted": "1", "correct": bool(c),
            "finish_reason": "stop", "tokens": 3,
        }
        for decoding in ("sampled", "greedy")
        for i, c in enumerate(correct if decoding == "sampled" else [0] * len(correct))
    ]  # fmt: skip
    (folder / key).mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=schemas.EVALS)
    tables.write(table, folder / key / "evals.parquet", schemas.EVALS)


def test_an_effect_is_the_paired_difference_of_the_two_evaluations(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "evaluate"
    write(folder, "real", [1, 1, 1, 0, 0, 0])
    write(folder, "one", [1, 0, 1, 0, 0, 0])
    write(folder, "two", [1, 1, 1, 0, 0, 1])
    arms = {"omniopd": {s: {"round-1": {"evaluate": "real"}} for s in ("seed-0", "seed-1")}}
    branches = {
        "shuffled-scores": {
            "seed-0": {"round-1": {"evaluate": "one"}},
            "seed-1": {"round-1": {"evaluate": "two"}},
        }
    }
    one, two, pooled = score_effects.effects(Evals(arms), branches)
    assert one["real_accuracy"] == two["real_accuracy"] == pytest.approx(3 / 6)
    assert one["diff"] == pytest.approx(1 / 6)
    assert two["diff"] == pytest.approx(-1 / 6)
    # over 3 problems with differences .5, 0, 0 resamples lie in [0, .5]; few problems tell
    assert one["low"] < 0
    assert 0.5 < one["high"] < 1
    assert one["p"] is two["p"] is pooled["seed"] is None
    # seeds x problems [.5 0 0; 0 0 -.5]: mean squares 1/6, 1/8 and 1/24 of seeds, problems, error;
    # 6 times the variance of the mean is 1/6 + 1/8 - 1/24, and two seeds leave one df, t 12.706
    half = 12.706 * (0.25 / 6) ** 0.5
    assert pooled["diff"] == pytest.approx(0.0)
    assert (pooled["low"], pooled["high"]) == (max(-half, -1), min(half, 1))
    assert pooled["p"] == pytest.approx(1.0)
    text = score_effects.section([one, two, pooled])
    assert "of 2 rounds and seeds the real scores did better in 0 and worse in 0" in text
    mean = next(line for line in text.splitlines() if "| mean" in line)
    assert "+0.000 [-1.000, +1.000]" in mean
    assert "of a mean over seeds and problems crossed" in text
    assert score_effects.effects(Evals(arms), {}) == []
    assert score_effects.section([]) == ""


def test_the_mean_over_seeds_is_paired_by_seed_and_problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reals = {"seed-0": [1, 1, 1, 0, 1, 1, 1, 0], "seed-1": [1, 1, 0, 0, 1, 1, 1, 1]}
    reals["seed-2"] = [1, 0, 1, 0, 1, 1, 1, 1]
    others = {"seed-0": [1, 0, 0, 0, 0, 0, 0, 0], "seed-1": [1, 0, 0, 0, 1, 0, 0, 1]}
    others["seed-2"] = [0, 0, 1, 0, 1, 0, 0, 0]
    for name, found in (("real", reals), ("other", others)):
        for seed, correct in found.items():
            write(tmp_path / "data" / "evaluate", f"{name}-{seed}", correct)
    arms = {s: {"round-1": {"evaluate": f"real-{s}"}} for s in reals}
    branches = {s: {"round-1": {"evaluate": f"other-{s}"}} for s in others}
    found = score_effects.effects(Evals({"omniopd": arms}), {"zero-score": branches})
    assert [row["seed"] for row in found] == [0, 1, 2, None]
    tables_ = [np.reshape(list(x.values()), (3, 4, 2)).mean(2) for x in (reals, others)]
    wanted = seeds_by_problems.crossed(tables_[0] - tables_[1], lowest=-1.0)
    got = found[-1]
    assert -1 < got["low"] < got["diff"] < got["high"] < 1
    assert (got["diff"], got["low"], got["high"]) == pytest.approx(wanted.interval)
    assert got["p"] == pytest.approx(wanted.p)
    assert got["real_accuracy"] == pytest.approx(tables_[0].mean())
    assert got["control_accuracy"] == pytest.approx(tables_[1].mean())
    assert got["problems"] == 4
