"""A renamed setting: the old name still counts, with one warning, and cells keep it."""

import logging
from typing import Annotated

import pytest
from ruamel.yaml import YAML

from pipeline.commands.exp import exp_run
from pipeline.config import params, params_file, renamed
from pipeline.core.errors import UserError
from pipeline.plan import blocks, expand, experiment, resolved
from tests.project import MINIATURE


class Block(params.Params):
    limit: Annotated[params.Positive, renamed.renamed("limit", "most")]
    size: params.Count = 1


class File(params.Params):
    block: Block


NAMES = renamed.names(File)


def miniature():
    return YAML(typ="safe", pure=True).load(MINIATURE.read_text())


def test_a_field_says_both_of_its_names():
    assert NAMES == {"block": {"most": "limit"}}
    assert Block(limit=1.0) == Block.model_validate({"most": 1.0})
    assert resolved.dump(Block(limit=1.0, size=2)) == {"most": 1.0, "size": 2}
    with pytest.raises(ValueError, match=r"limit\n.*Field required"):
        Block.model_validate({})


def test_old_names_become_new_ones_in_blocks_and_arms_with_one_warning_a_key(caplog):
    values = {
        "block": {"size": 3, "most": 1},
        "arms": {"one": {"block": {"most": 2}}, "two": {}, "three": {"block": {"limit": 4}}},
    }
    for _ in range(2):
        assert renamed.current(values, NAMES, "params.yaml") == {
            "block": {"size": 3, "limit": 1},
            "arms": {"one": {"block": {"limit": 2}}, "two": {}, "three": {"block": {"limit": 4}}},
        }
    assert values["block"] == {"size": 3, "most": 1}
    assert [x.getMessage() for x in caplog.records] == [
        "block.most is block.limit now. Rename it: the next release no longer reads block.most."
    ]


@pytest.mark.parametrize("above", ["", "arms.one."])
def test_both_names_are_refused(above):
    both = {"block": {"most": 1, "limit": 2}}
    values = {"arms": {"one": both}} if above else both
    said = rf"here: found {above}block\.most and {above}block\.limit, .* Remove most\."
    with pytest.raises(UserError, match=said):
        renamed.current(values, NAMES, "here")


@pytest.mark.parametrize("value", [None, 3, [{"most": 1}]])
def test_what_is_no_block_is_left_to_validation(value):
    values = {"block": value, "arms": {"one": value}}
    assert renamed.current(values, NAMES, "here") == values
    assert renamed.current({"arms": value}, NAMES, "here") == {"arms": value}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("block.most=2", "block.limit=2"),
        ("block.limit=2", "block.limit=2"),
        ("arms.old.block.limit=2", "arms.old.block.most=2"),
        ("arms.old.block.most=2", "arms.old.block.most=2"),
        ("~arms.old.block.limit", "~arms.old.block.most"),
        ("+arms.new.block.most=2", "+arms.new.block.most=2"),
        ("block.size=2", "block.size=2"),
        ("experiment.arms=[block.most=1]", "experiment.arms=[block.most=1]"),
        ("block={most: 1}", "block={most: 1}"),
    ],
)
def test_a_key_of_the_command_line_is_named_as_the_file_names_it(asked, found):
    values = {"block": {"limit": 1}, "arms": {"old": {"block": {"most": 1}}, "new": {}}}
    assert renamed.as_written([asked], values, NAMES) == [found]


def test_a_stage_reads_an_untracked_setting_under_either_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("limit", "most"):
        params_file.PARAMS.write_text(f"block: {{{name}: 2, other: 1, size: 3}}\n")
        assert params_file.free("block", Block) == Block(limit=2.0, size=3)


def test_experiment_keep_is_read_as_keep_checkpoints(tmp_path, monkeypatch, caplog):
    values = miniature()
    values["experiment"]["keep"] = "last"
    file = experiment.of(values, "here")
    assert file.experiment.keep_checkpoints == "last"
    assert "experiment.keep is experiment.keep_checkpoints now" in caplog.text
    values["experiment"]["keep_checkpoints"] = "all"
    with pytest.raises(UserError, match=r"found experiment\.keep and experiment\.keep_checkpoints"):
        experiment.of(values, "here")


def test_exp_run_takes_either_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING)
    plain = MINIATURE.read_text()
    for name, other in (("keep_checkpoints", "keep"), ("keep", "keep_checkpoints")):
        text = plain.replace("experiment:\n", f"experiment:\n  {name}: all  # why\n", 1)
        blocks.PARAMS.write_text(text)
        for key in (name, other):
            changed = exp_run.overridden([f"experiment.{key}=last"])
            assert changed == text.replace(f"  {name}: all  # why", f"  {name}: last  # why")
    assert caplog.text.count("experiment.keep is experiment.keep_checkpoints now") == 1


OLD = {"max_grad_norm": "clip", "importance_ratio": "correction", "kl_scope": "anchor"}


def earlier(block):
    """A train block, or an arm's part of it, as the last release named its settings."""
    return {OLD.get(name, name): value for name, value in block.items()}


def test_old_names_make_the_same_cells_which_keep_them(caplog):
    now, before = miniature(), miniature()
    before["train"] = earlier(before["train"])
    for arm in before["arms"].values():
        if "train" in arm:
            arm["train"] = earlier(arm["train"])
    assert now != before
    plan = expand.expand(experiment.of(now, "here"))
    assert expand.expand(experiment.of(before, "here")) == plan
    assert len(caplog.records) == len(OLD)
    named = [cell["params"].keys() for cell in plan["cells"]["train"].values()]
    assert named
    for names in named:
        assert set(OLD.values()) <= names
        assert not OLD.keys() & names


def test_an_arm_overrides_by_either_name():
    for name in ("max_grad_norm", "clip"):
        values = miniature()
        values["arms"]["mine"] = {"train": {name: 0.25}}
        assert experiment.of(values, "here").arm("mine").train.max_grad_norm == 0.25
        values["arms"]["mine"]["train"] |= {"max_grad_norm": 1.0, "clip": 1.0}
        with pytest.raises(UserError, match=r"arms\.mine\.train\.clip and arms\.mine\.train\.max"):
            experiment.of(values, "here")


def test_exp_run_sets_train_clip(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    blocks.PARAMS.write_text(MINIATURE.read_text())
    text = exp_run.overridden(["train.clip=0.5"])
    assert text == exp_run.overridden(["train.max_grad_norm=0.5"])
    assert "max_grad_norm: 0.5" in text
    assert "train.clip is train.max_grad_norm now" in caplog.text


def test_a_setting_that_is_no_more_is_left_out_with_one_warning(caplog):
    values = miniature()
    values["runtime"]["engine_entropies"] = 20
    for _ in range(2):
        assert experiment.of(values, "here") == experiment.of(miniature(), "here")
    assert values["runtime"]["engine_entropies"] == 20
    (said,) = [x.getMessage() for x in caplog.records]
    assert said.startswith("runtime.engine_entropies is no setting any more: the engine's")
    assert said.endswith("Remove it: the next release refuses it.")
