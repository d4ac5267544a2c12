"""Students above half a billion parameters train an adapter, unless params say otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.method import Train
from pipeline.core.errors import UserError
from pipeline.plan import adapter_default, blocks, expand, experiment
from tests.project import MINIATURE

QWEN = {"kind": "hub", "name": "Qwen/Qwen3-1.7B", "revision": "a" * 40}
LARGE = {
    "layers": 24,
    "hidden": 1536,
    "heads": 12,
    "kv_heads": 12,
    "head_dim": 128,
    "mlp": 6144,
    "vocabulary": 100,
    "tied": True,
}
OWN = {"rank": 4, "alpha": 8.0, "targets": ["q_proj"]}


def load(tmp_path: Path, student: dict[str, Any], **train: Any) -> blocks.Experiment:
    """The miniature with other keys of its student and of block train; arm sft has its own."""
    values = YAML(typ="safe").load(MINIATURE.read_text())
    values["pretrain"]["models"]["sloppy"] |= student
    values["train"] |= train
    values["experiment"]["arms"] = ["omniopd", "sft"]
    values["arms"]["sft"]["train"]["lora"] = OWN
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return experiment.load(tmp_path / "params.yaml")


def trained(found: blocks.Experiment, arm: str = "omniopd") -> Any:
    """What the arm's train cell says of an adapter; `absent` if nothing."""
    cells = expand.expand(found)["cells"]
    key = cells["arms"][arm]["seed-0"]["round-1"]["train"]
    (cell,) = [cells[g][key] for g in expand.GROUPS if key in cells[g]]
    return cell["params"].get("lora", "absent")


def test_a_small_student_trains_every_weight_and_its_cells_are_those_of_before(
    tmp_path: Path,
) -> None:
    unsaid, said = load(tmp_path, {}), load(tmp_path, {}, lora="none")
    assert trained(unsaid) == "absent"
    assert trained(unsaid, "sft") == OWN
    assert (
        expand.expand(unsaid) == expand.expand(said) == expand.expand(load(tmp_path, {}, lora=None))
    )
    assert unsaid.adapters() == (
        "omniopd: student sloppy, 0.05 million parameters: every weight is trained (train.lora is "
        "not set, and the limit is 500 million)\n"
        "sft: student sloppy, 0.05 million parameters: an adapter is trained, rank 4, alpha 8, "
        "q_proj (as train.lora says)"
    )


@pytest.mark.parametrize(
    "student", [{"init": QWEN}, {"init": {"kind": "hub", "name": "who/knows"}, "shape": LARGE}]
)
def test_a_large_student_trains_an_adapter_unless_told_otherwise(
    tmp_path: Path, student: dict[str, Any]
) -> None:
    default = {"rank": 16, "alpha": 32.0, "targets": "all-linear"}
    found = load(tmp_path, student)
    assert trained(found) == default
    assert trained(found, "sft") == OWN
    report = next(iter(expand.expand(found)["cells"]["report"].values()))["params"]
    assert report["settings"]["omniopd"]["train"]["lora"] == default
    assert "an adapter is trained, rank 16, alpha 32, all-linear (train.lora" in found.adapters()
    assert trained(load(tmp_path, student, lora="none")) == "absent"
    assert trained(load(tmp_path, student, lora=OWN)) == OWN


def test_just_at_the_limit_every_weight_is_trained(tmp_path: Path) -> None:
    """One layer of 4 x 100 x 100 + 3 x 100 x mlp, and an embedding of 100 x vocabulary."""
    shape = LARGE | {"layers": 1, "hidden": 100, "heads": 1, "kv_heads": 1, "head_dim": 100}
    shape |= {"mlp": 100}  # 40,000 + 30,000
    exact = (adapter_default.ABOVE - 70_000) // 100
    for more, wanted in ((0, None), (1, adapter_default.DEFAULT)):
        student = {"init": QWEN, "shape": shape | {"vocabulary": exact + more}}
        found = load(tmp_path, student)
        assert (
            adapter_default.parameters("sloppy", found.pretrain.models)
            == adapter_default.ABOVE + 100 * more
        )
        assert found.arm("omniopd").train.lora == wanted


def test_a_student_of_unknown_size_must_say(tmp_path: Path) -> None:
    unknown = {"init": {"kind": "hub", "name": "who/knows"}}
    with pytest.raises(UserError, match=r"train\.lora: found nothing.*student sloppy.*Say which"):
        load(tmp_path, unknown)
    assert trained(load(tmp_path, unknown, lora="none")) == "absent"
    assert "student sloppy: every weight" in load(tmp_path, unknown, lora="none").adapters()


def test_a_folder_says_it_in_its_config_and_needs_no_weights(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {
        "num_hidden_layers": 24,
        "hidden_size": 1536,
        "num_attention_heads": 12,
        "intermediate_size": 6144,
        "vocab_size": 100,
    }
    (folder / "config.json").write_text(json.dumps(config))
    found = load(tmp_path, {"init": {"kind": "hub", "name": str(folder)}})
    # 24 layers of 4 x 1536 x 1536 + 3 x 1536 x 6144, and two of 100 x 1536
    assert adapter_default.parameters("sloppy", found.pretrain.models) == 906_276_864
    assert found.arm("omniopd").train.adapter == adapter_default.DEFAULT


def test_a_model_has_the_size_of_the_one_that_it_starts_from(tmp_path: Path) -> None:
    found = load(tmp_path, {"init": {"kind": "model", "name": "careful"}})
    models = found.pretrain.models
    assert adapter_default.parameters("sloppy", models) == adapter_default.parameters(
        "careful", models
    )
    # two layers of 4 x 48 x 48 + 3 x 48 x 96, and 1,000 characters x 48
    assert adapter_default.parameters("careful", models) == 2 * (9_216 + 13_824) + 48_000
    assert Train.model_fields["lora"].default is None
