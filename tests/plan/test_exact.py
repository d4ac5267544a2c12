"""rollout.exact: where entropies come from, resolved by the plan, and part of a vLLM cell alone."""

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.report import markdown
from tests.project import MINIATURE

KEYS = {"hf": "cd40492bb", "vllm": "c433ca99e"}  # of the miniature, before there was a choice


def plan(exact=None, engine="vllm", device="cpu", dtype="float32"):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["rollout"] |= {"engine": engine, "exact": exact}
    values["runtime"]["device"] = device
    values["pretrain"]["models"]["sloppy"]["dtype"] = dtype
    return expand.expand(experiment.of(values, "here"))["cells"]


def rollout(cells, engine="vllm"):
    """Key and params of the first rollout cell."""
    key = cells["arms"]["omniopd"]["seed-0"]["round-1"]["rollout"]
    return key, cells["rollout" if engine == "hf" else f"rollout-{engine}"][key]["params"]


@pytest.mark.parametrize(
    ("device", "dtype", "wanted"),
    [
        ("cpu", "float32", "engine"),
        ("cpu", "bfloat16", "engine"),  # which vLLM and the exact pass read as float32 there
        ("cuda", "float32", "engine"),
        ("cuda", "bfloat16", "pass"),
    ],
)
def test_the_engine_s_own_where_both_compute_in_float32(device, dtype, wanted):
    _, params = rollout(cells := plan(device=device, dtype=dtype))
    assert params.get("exact", "pass") == wanted
    (report,) = cells["report"].values()
    settings = report["params"]["settings"]["omniopd"]
    assert settings["rollout"]["exact"] == wanted
    said = {"engine": "entropies of the engine as it sampled", "pass": "of the exact pass"}
    assert said[wanted] in markdown._method(settings)


def test_who_says_so_has_the_other_and_pass_is_the_cell_of_before():
    assert rollout(plan("engine", device="cuda", dtype="bfloat16"))[1]["exact"] == "engine"
    key, params = rollout(plan("pass"))
    assert (key, "exact" in params) == (KEYS["vllm"], False)
    assert rollout(plan())[0] == rollout(plan("engine"))[0] != key


def test_with_transformers_there_is_no_choice_and_cells_are_those_of_before():
    for exact in (None, "pass"):
        key, params = rollout(cells := plan(exact, "hf"), "hf")
        assert (key, "exact" in params) == (KEYS["hf"], False)
        (report,) = cells["report"].values()
        assert "exact" not in report["params"]["settings"]["omniopd"]["rollout"]
    with pytest.raises(UserError, match=r"rollout\.exact: found 'engine', wanted pass with .* hf"):
        plan("engine", "hf")
