"""A sweep's arms have the cells that `omniopd exp run -S` would give them, each once."""

import copy

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment, sweeps
from pipeline.plan.blocks import Sweep
from tests.project import MINIATURE

VALUES = {"score.metric": ["exact", "edit"], "train.lr": [1.0e-3, 3.0e-4]}


def params(listed, **sweep):
    found = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    found["experiment"]["arms"] = list(listed)
    found["experiment"]["rounds"] = 2
    if sweep:
        found["sweep"] = {"grid": sweep}
    return found


def arms(values):
    return expand.expand(experiment.of(values, ""))["cells"]["arms"]


def test_at_a_point_an_arm_has_the_cells_that_it_has_with_these_values_in_the_base_blocks():
    listed = ["omniopd", "sft", "agreement"]
    values = params(listed, arms=listed, values=VALUES)
    found, places = arms(values), experiment.swept(values, "")[1]["grid"]
    assert list(places) == [
        "exact-lr-1e-3",
        "exact-lr-3e-4",
        "edit-lr-1e-3",
        "edit-lr-3e-4",
    ]
    for point in sweeps.points("grid", Sweep(arms=tuple(listed), values=as_tuples(VALUES))):
        alone = params(listed)
        for key, value in point.values.items():
            block, name = key.split(".")
            alone[block][name] = value
        wanted = arms(alone)
        for arm in listed:
            assert found[places[point.label][arm]] == wanted[arm], (arm, point)


def as_tuples(values):
    return {key: tuple(own) for key, own in values.items()}


def test_what_has_the_cells_of_another_is_that_one():
    values = params(["omniopd", "sft"], arms=["omniopd", "sft"], values=VALUES)
    file, places = experiment.swept(values, "")
    own = {label: at["sft"] for label, at in places["grid"].items()}
    # it reads no metric, and the file has the first lr
    assert own == {
        "exact-lr-1e-3": "sft",
        "exact-lr-3e-4": "sft-exact-lr-3e-4",
        "edit-lr-1e-3": "sft",
        "edit-lr-3e-4": "sft-exact-lr-3e-4",
    }
    assert places["grid"]["edit-lr-1e-3"]["omniopd"] == "omniopd"
    assert file.experiment.arms == (
        *("omniopd", "sft", "omniopd-exact-lr-1e-3", "omniopd-exact-lr-3e-4"),
        *("sft-exact-lr-3e-4", "omniopd-edit-lr-3e-4"),
    )


def test_a_control_of_a_swept_arm_controls_that_arm_at_the_point():
    listed = ["omniopd", "constant-scores"]
    # the second first, which is no matter
    found = arms(params(listed, arms=listed[::-1], values=VALUES))
    prior = found["omniopd-exact-lr-3e-4"]["seed-0"]["round-2"]["prior"]
    values = params(listed, arms=listed[::-1], values=VALUES)
    cells = expand.expand(experiment.of(values, ""))["cells"]["prior-control"]
    own = found["constant-scores-exact-lr-3e-4"]["seed-0"]["round-2"]["prior"]
    assert cells[own]["controlled"] == prior
    at = experiment.swept(values, "")[1]["grid"]["edit-lr-1e-3"]
    assert at == {"omniopd": "omniopd", "constant-scores": "constant-scores"}


def test_a_sweep_moves_no_cell_of_the_experiment():
    plain, swept = arms(params(["omniopd"])), params(["omniopd"], arms=["omniopd"], values=VALUES)
    found = arms(swept)
    assert {arm: found[arm] for arm in plain} == plain


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.betta": [1, 2]}, "Is it beta?"),
        ({"train.lr": ["high", 1.0]}, "train.lr: found 'high'"),
        ({"train.lr": [0.1, 0.1]}, "wanted each value once"),
        ({"experiment.rounds": [1, 2]}, "omniopd exp run -S"),
        ({"evaluate.problems": [1, 2]}, "omniopd exp run -S"),
        ({"train": [1]}, "such as train.lr"),
        ({"teach.replay": [True]}, "one setting for all arms"),
        ({"teach.teacher": ["nobody", "carries"]}, "wanted one of teachers"),
    ],
)
def test_what_makes_no_sound_arm_is_refused(values, said):
    with pytest.raises(UserError, match=said):
        experiment.of(params(["omniopd"], arms=["omniopd"], values=values), "")


def test_a_point_is_not_taken_for_an_arm_of_the_file():
    values = params(["omniopd"], arms=["omniopd"], values={"train.lr": [1.0e-4, 3.0e-4]})
    other = copy.deepcopy(values)
    other["arms"]["omniopd-lr-1e-4"] = {"train": {"beta": 0.5}}
    with pytest.raises(UserError, match="a name that no other arm has"):
        experiment.of(other, "")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({"train.beta": [0.5, 0.0, 10]}, ["beta-0p5", "beta-0", "beta-10"]),
        ({"train.lr": [1.5e-4, 20000.0]}, ["lr-1p5e-4", "lr-2e4"]),
        ({"train.betas": [[0.9, 0.98], [0.8, 0.9]]}, ["betas-0p9-0p98", "betas-0p8-0p9"]),
        ({"score.metric": ["extensions.ending", "edit"]}, ["ending", "edit"]),
        ({"train.lora": [None, "none"]}, ["lora-null", "none"]),
        ({"score.metric": ["x.a", "y.a"]}, ["grid-1", "grid-2"]),  # else they would be one
    ],
)
def test_points_are_called_by_their_values(values, labels):
    sweep = Sweep(arms=("omniopd",), values=as_tuples(values))
    assert [point.label for point in sweeps.points("grid", sweep)] == labels
