"""A teacher by one line: in params.yaml, in the stage that asks it, and for an audit."""

import pytest
from ruamel.yaml import YAML

from pipeline.config import params_file, teacher_lines
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.teachers import teach_cell
from tests.project import MINIATURE

CLAUDE = "anthropic:claude-haiku-4-5-20251001"
SERVED = "http://127.0.0.1:8000/v1#Qwen3-32B"


def file(tmp_path, line, monkeypatch, arm="omniopd", **block):
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["experiment"]["arms"] = ["omniopd"]
    asked = {"teacher": line, "continuation": "prefill", **block}
    if arm == "swept":
        own = {"teach.teacher": [values["teach"]["teacher"], line]}
        values["teach"] |= {"continuation": "prefill", **block}
        values["sweep"] = {"teachers": {"arms": ["omniopd"], "values": own}}
    elif arm == "omniopd":
        values["teach"] |= asked
    else:
        values["arms"][arm] = {"teach": asked}
        values["experiment"]["arms"].append(arm)
    path = tmp_path / "params.yaml"
    with path.open("w") as out:
        YAML().dump(values, out)
    monkeypatch.chdir(tmp_path)
    return values


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (CLAUDE, {"kind": "anthropic", "model": "claude-haiku-4-5-20251001"}),
        ("google:gemini-3.5-flash", {"kind": "google", "model": "gemini-3.5-flash"}),
        (
            "openai:gpt-4.1-2025-04-14",
            {"kind": "openai_compatible", "provider": "openai", "model": "gpt-4.1-2025-04-14"},
        ),
        (
            "openrouter:qwen/qwen3-32b:free",
            {
                "kind": "openai_compatible",
                "provider": "openrouter",
                "model": "qwen/qwen3-32b:free",
                "base_url": "https://openrouter.ai/api/v1",
            },
        ),
        (
            SERVED,
            {
                "kind": "openai_compatible",
                "base_url": "http://127.0.0.1:8000/v1",
                "model": "Qwen3-32B",
            },
        ),
    ],
)
def test_a_line_is_an_entry(line, wanted):
    assert teacher_lines.entry(line, "--teacher") == wanted
    assert teacher_lines.NAME.fullmatch(teacher_lines.name(line))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("antropic:claude-haiku", "teach.teacher: found 'antropic:claude-haiku'.*Is it anthropic"),
        ("google:", "wanted google:MODEL"),
        ("http://127.0.0.1:8000/v1", "wanted http://HOST/v1#MODEL"),
        ("ftp://127.0.0.1/v1#m", "wanted http://HOST/v1#MODEL"),
        ("https://me:hunter2@host/v1#m", "credentials"),
        ("nowhere/model.gguf", "wanted PACKAGE/FILE.gguf"),
    ],
)
def test_no_line_is_refused_by_key_value_and_remedy(tmp_path, monkeypatch, line, said):
    file(tmp_path, line, monkeypatch)
    with pytest.raises(UserError, match=said) as found:
        experiment.load()
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize("arm", ["omniopd", "also", "swept"])
@pytest.mark.parametrize("line", [CLAUDE, SERVED])
def test_the_plan_and_the_stage_read_the_same_teacher(tmp_path, monkeypatch, line, arm):
    values = file(tmp_path, line, monkeypatch, arm)
    values["teach"]["accept_terms"] = "anthropic"
    loaded = experiment.of(values, "params.yaml")
    name = teacher_lines.name(line)
    (cell, *_) = [
        cell["params"]
        for cell in expand.expand(loaded)["cells"]["teach-hosted"].values()
        if cell["params"]["teacher"] == name
    ]
    p = teach_cell.TeachParams.model_validate(cell, strict=False)
    params_file._params.cache_clear()
    assert teach_cell._config(p) == loaded.teachers[name]


def test_an_entry_of_its_own_stands_above_the_line(tmp_path, monkeypatch):
    values = file(tmp_path, CLAUDE, monkeypatch, accept_terms="anthropic", max_usd=3.0)
    own = {"kind": "anthropic", "model": "claude-haiku-4-5-20251001"}
    own["price"] = {"input": 1.0, "output": 5.0}
    values["teachers"][teacher_lines.name(CLAUDE)] = own
    assert experiment.of(values, "x").teachers[teacher_lines.name(CLAUDE)].price is not None


def test_a_folder_or_a_hub_name_is_a_local_teacher(tmp_path, monkeypatch):
    file(tmp_path, "Qwen/Qwen3-1.7B", monkeypatch, continuation="completions")
    loaded = experiment.load()
    assert loaded.teachers["qwen-qwen3-1-7b"].kind == "local"
    init = loaded.pretrain.models["qwen-qwen3-1-7b"].init
    assert (init.kind, init.name) == ("hub", "Qwen/Qwen3-1.7B")
