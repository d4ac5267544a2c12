"""A cell's params in plan.yaml."""

import copy
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import cells, experiment, plan
from pipeline.errors import UserError
from pipeline.params import Params
from tests.project import MINIATURE, ROOT

TEXT = (ROOT / "plan.yaml").read_text()


class Steps(Params):
    steps: int


def test_every_cell_is_what_the_whole_plan_says() -> None:
    groups = YAML(typ="safe").load(TEXT)["cells"]
    found = [(group, key) for group in plan.GROUPS for key in groups[group]]
    assert len(found) > 50
    for group, key in found:
        assert cells._cell(TEXT, group.split("-")[0], key) == (group, groups[group][key])


def test_only_the_cells_own_lines_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = next(iter(YAML(typ="safe").load(TEXT)["cells"]["train"]))
    parsed: list[str] = []

    def load(_: YAML, text: str) -> dict[str, Any]:
        parsed.append(text)
        return {}

    monkeypatch.setattr(YAML, "load", load)
    assert cells._cell(TEXT, "train", key) == ("train", {})
    (lines,) = parsed
    assert lines.startswith("      params:\n")
    assert lines.count("params:") == 1


@pytest.mark.parametrize(
    "text",
    [
        "cells:\n  train:\n    ca:\n      params: {steps: 3}\n",
        "cells:\n  train-more:\n    ca:\n      params:\n\n        steps: 3\n    cb: {}",
        "cells: {train: {}, train-more: {ca: {params: {steps: 3}}}}",
        'cells:\n    "train":\n        ca:\n            params:\n                steps: 3',
    ],
)
def test_the_layout_is_free(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells.PLAN.write_text(text)
    assert cells.params("train", "ca", Steps) == Steps(steps=3)


def test_a_missing_or_unexpected_cell_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"plan\.yaml: not found"):
        cells.params("train", "ca", Steps)
    cells.PLAN.write_text("cells:\n  train-more:\n    ca:\n      params:\n        step: 3\n")
    for stage, key in (("train", "cb"), ("more", "ca"), ("trai", "ca")):
        with pytest.raises(UserError, match=f"has no {stage} cell '{key}'"):
            cells.params(stage, key, Steps)
    with pytest.raises(UserError, match=r"train-more\.ca is not what this code expects"):
        cells.params("train", "ca", Steps)


MODELS = {
    name: next(
        model
        for model in vars(importlib.import_module(f"stages.{name}")).values()
        if isinstance(model, type) and model.__name__ == f"{name.capitalize()}Params"
    )
    for name in sorted({group.partition("-")[0] for group in plan.GROUPS} - {"steps"})
}


def planned() -> Iterator[dict[str, Any]]:
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"]["arms"] = list(values["arms"])
    yield plan.expand(experiment.of(values, ""))
    for path in [ROOT / "params.yaml", *sorted(ROOT.glob("profiles/*.yaml"))]:
        yield plan.expand(experiment.load(path))


def test_no_cell_leaves_a_setting_of_its_block_to_a_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A default of a block is no part of a cell's code, and might be another one in other code."""
    seen = set()
    for found in planned():
        for group in plan.GROUPS:
            stage = group.partition("-")[0]
            for key, cell in found["cells"][group].items():
                if stage != "steps":
                    monkeypatch.setitem(cells._inside, (stage, key), (group, cell))
                    cells.params(stage, key, MODELS[stage])
                    seen.add(stage)
    assert seen == set(MODELS)


def test_a_cell_that_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    key, cell = next(iter(YAML(typ="safe").load(TEXT)["cells"]["pretrain"].items()))
    for name in ("dtype", "habits"):
        held = copy.deepcopy(cell)
        del held["params"]["model"][name]
        monkeypatch.setitem(cells._inside, ("pretrain", key), ("pretrain", held))
        with pytest.raises(UserError, match=f"no {name} among its params"):
            cells.params("pretrain", key, MODELS["pretrain"])
