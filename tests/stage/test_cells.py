"""A cell's params and paths in its file."""

import copy
import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.params import Params
from pipeline.core.errors import UserError
from pipeline.method.objectives import declared
from pipeline.plan import expand, experiment
from pipeline.stage import cells
from pipeline.training.evidence import train_params
from stages.forks import AskingParams
from stages.score import OutcomeParams
from tests.project import MINIATURE, ROOT

FILE = Path("dag/cells/train/ca.yaml")


class Steps(Params):
    steps: int


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Writes the file of cell `ca`, in a project's folder."""
    monkeypatch.chdir(tmp_path)
    FILE.parent.mkdir(parents=True)
    return FILE.write_text


def test_every_cell_is_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    groups = expand.expand(experiment.load())["cells"]
    found = [(group, key) for group in expand.GROUPS for key in groups[group]]
    assert len(found) > 50
    for group, key in found:
        name, content = cells.cell(group.split("-")[0], key)
        assert name == group
        assert content.items() >= groups[group][key].items()


@pytest.mark.parametrize(
    "text",
    [
        "group: train\nparams: {steps: 3}\n",
        "params:\n\n        steps: 3\ngroup: train-more",
        '{"group": "train-more", "params": {"steps": 3}}',
    ],
)
def test_the_layout_is_free(text: str, put: Callable[[str], object]) -> None:
    put(text)
    assert cells.params("train", "ca", Steps) == Steps(steps=3)


def test_a_missing_or_unexpected_cell_is_named(put: Callable[[str], object]) -> None:
    put("group: train-more\nparams: {step: 3}\n")
    for stage, key in (("train", "cb"), ("more", "ca"), ("trai", "ca"), ("train", "*")):
        with pytest.raises(UserError, match=f"has no {stage} cell '{re.escape(key)}'"):
            cells.params(stage, key, Steps)
    with pytest.raises(UserError, match=r"ca\.yaml: train-more is not what this code expects"):
        cells.params("train", "ca", Steps)
    shutil.rmtree("dag")
    with pytest.raises(UserError, match=r"dag: not found"):
        cells.params("train", "ca", Steps)


def handed(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    monkeypatch.setattr(cells, "check_code", lambda stage, key: None)
    monkeypatch.setattr(sys, "argv", ["train", "--cell", "ca", *words])
    return vars(cells.arguments("train", "policy", "answers?"))


def test_a_stage_is_handed_the_paths_that_its_cell_has(
    put: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("{group: train, reads: {policy: data/p, more: data/m}, out: data/train/ca}")
    found = {"cell": "ca", "policy": Path("data/p"), "answers": None, "out": Path("data/train/ca")}
    assert handed(monkeypatch) == found
    tried = handed(monkeypatch, "--policy", "x", "--answers", "y", "--out", "z")
    assert tried == {"cell": "ca", "policy": Path("x"), "answers": Path("y"), "out": Path("z")}


def test_a_path_that_no_one_says_is_asked_for(
    put: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("{group: train, reads: {}, out: data/train/ca}")
    with pytest.raises(UserError, match=r"ca\.yaml: found no path of policy, which train needs"):
        handed(monkeypatch)


MODELS = {
    name: next(
        model
        for model in vars(importlib.import_module(f"stages.{name}")).values()
        if isinstance(model, type) and model.__name__ == f"{name.capitalize()}Params"
    )
    for name in sorted({group.partition("-")[0] for group in expand.GROUPS} - {"steps"})
}


def model_of(stage: str, cell: dict[str, Any]) -> type[Params]:
    """What the stage reads a cell with: of train, forks and score that of its kind."""
    if stage == "train":
        return train_params.of(declared(cell["params"]["objective"]))
    if stage == "forks" and "policy" in cell:
        return AskingParams
    if stage == "score" and "prepare" in cell["params"]:
        return OutcomeParams
    return MODELS[stage]


def planned() -> Iterator[dict[str, Any]]:
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"]["arms"] = list(values["arms"])
    yield expand.expand(experiment.of(values, ""))
    for path in [ROOT / "params.yaml", *sorted(ROOT.glob("pipeline/commands/profiles/*.yaml"))]:
        yield expand.expand(experiment.load(path))


def test_no_cell_leaves_a_setting_of_its_block_to_a_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A default of a block is no part of a cell's code, and might be another one in other code."""
    seen = set()
    for found in planned():
        for group in expand.GROUPS:
            stage = group.partition("-")[0]
            for key, cell in found["cells"][group].items():
                if stage != "steps":
                    monkeypatch.setitem(cells._inside, (stage, key), (group, cell))
                    cells.params(stage, key, model_of(stage, cell))
                    seen.add(stage)
    assert seen == set(MODELS)


def test_a_cell_that_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    key, cell = next(iter(expand.expand(experiment.load(MINIATURE))["cells"]["pretrain"].items()))
    for name in ("dtype", "habits"):
        held = copy.deepcopy(cell)
        del held["params"]["model"][name]
        monkeypatch.setitem(cells._inside, ("pretrain", key), ("pretrain", held))
        with pytest.raises(UserError, match=f"no {name} among its params"):
            cells.params("pretrain", key, MODELS["pretrain"])
