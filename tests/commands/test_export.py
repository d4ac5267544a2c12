"""`omniopd export`: what is written is what the arm trains on."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from pipeline.commands import exports
from pipeline.commands.app import app
from pipeline.commands.exports import card, trl, trl_loss
from pipeline.commands.exports.source import Source, find
from pipeline.commands.exports.trained import trained
from pipeline.config.method import Lora
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines.hf import Frozen, load, save
from pipeline.method.objectives import omniopd
from pipeline.method.objectives.weighted import everywhere
from pipeline.plan import experiment
from pipeline.training import students
from pipeline.training.gradients import gradients
from pipeline.training.optimizer_steps import Step
from tests import naive
from tests.project import MINIATURE
from tests.training.test_training import terms

LENGTHS = (9, 12, 6, 14, 3)  # of the responses; the last has no fork
CHUNKS = {0: [(1, 4)], 1: [(0, 4), (6, 4)], 2: [(2, 4)], 3: [(5, 4), (9, 4)]}
ARM = {
    "policy": "data/pretrain/cbase", "rollout": "croll", "teach": "cteach", "prior": "cprior",
    "train": "ctrain",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A project of one trained round, with an audit's form of plan.yaml."""
    for key, seed in (("pretrain/cbase", 1), ("train/ctrain", 2)):
        policy = naive.tiny(seed)
        save(policy.model, policy.tokenizer, tmp_path / f"data/{key}/checkpoint", torch.float32)
    draw = np.random.default_rng(0)
    prompts, rollouts, targets = [], [], []
    for i, length in enumerate(LENGTHS):
        name, question = f"train-{i // 2:06d}", f"{i // 2}+1?"
        message = json.dumps([{"role": "user", "content": question}])
        if i % 2 == 0:
            prompts.append((name, "arithmetic", "train", message, question, "1"))
        ids = draw.integers(2, 18, length).tolist()
        logps = np.log(draw.uniform(0.005, 0.2, length)).astype(np.float32).tolist()
        asked = draw.integers(2, 18, 5).tolist()
        place = (f"{name}-{i % 2}", name, i % 2, 1, asked)
        rollouts.append((*place, ids, logps, [0.5] * length, "x", "length", i / 4))
        for start, size in CHUNKS.get(i, []):
            weight = float(draw.random())
            targets.append((f"{name}-{i % 2}", start, size, 4, 2.0, 0.5, 0.5, 0.1, weight))
    for stage, name, schema, rows in (
        ("prepare/cprep", "prompts", schemas.PROMPTS, prompts),
        ("rollout/croll", "rollouts", schemas.ROLLOUTS, rollouts),
        ("prior/cprior", "targets", schemas.TARGETS, targets),
    ):
        found = [dict(zip(schema.names, row, strict=True)) for row in rows]
        table = pa.Table.from_pylist(found, schema=schema)
        tables.write(table, tmp_path / f"data/{stage}/{name}.parquet", schema)
    return tmp_path


def source(folder, cells=ARM, **train):
    file = experiment.load(MINIATURE)
    settings = file.arm("omniopd")
    p = settings.train.model_dump(mode="json", by_alias=True) | {"beta": 0.3} | train
    plan = {
        "cells": {
            "rollout": {"croll": {"params": {}, "prompts": "cprep", "policy": ARM["policy"]}},
            "prior": {"cprior": {"params": {}}},
            "train": {"ctrain": {"params": p}},
            "report": {"creport": {"params": {}}},
        }
    }
    cells = {name: key for name, key in cells.items() if name != "policy"}
    return Source(folder, plan, settings, file, "omniopd", 0, 1, 1, cells)


def examples(folder, **options):
    rollouts = tables.read(folder / "data/rollout/croll/rollouts.parquet", schemas.ROLLOUTS)
    targets = tables.read(folder / "data/prior/cprior/targets.parquet", schemas.TARGETS)
    return omniopd.examples(rollouts, targets, **options)


def ours(folder, train, **options):
    """Loss and gradient of the pipeline's own objective on the round as one optimizer step."""
    p = train | options
    student, reference = naive.tiny(2), naive.tiny(3)
    found = examples(folder, baseline=p["baseline"])
    found = everywhere(found) if p["anchor"] == "all" else found
    correct = p["correction"] == "ratio"
    step = Step(terms("omniopd", correct), p["beta"], p["reduce"] == "token_mean", 2)
    sums, metrics = gradients(student, Frozen(reference), found, step)
    grads = sums.grads
    return metrics["train/loss"], grads


OPTIONS = [
    {},
    {"reduce": "token_mean"},
    {"correction": "ratio"},
    {"baseline": "prompt"},
    {"anchor": "all"},
    {"beta": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_trl_loss_and_its_gradient_equal_our_objective_in_any_micro_batches(folder, options):
    here = source(folder, **options)
    exports.export(here, "trl", folder / "out")
    rows = pq.read_table(folder / "out/data.parquet").to_pylist()
    told = json.loads((folder / "out/settings.json").read_text())
    assert told["unused_ids"] == [18, 19, 20]  # naive.tiny's three rows without a token
    student, reference = naive.tiny(2), naive.tiny(3)
    batches = [trl_loss.collate(rows[:2], 0), trl_loss.collate(rows[2:], 0)]
    counts = trl_loss.counts(batches, told["reduce"] == "token_mean")
    total = 0.0
    for batch in batches:
        asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            theirs = reference.model(**asked).logits
        logits = student.model(**asked).logits
        args = (told["beta"], told["correction"] == "ratio", told["unused_ids"])
        found = trl_loss.loss(logits, theirs, batch, counts, *args)
        found.backward()
        total += float(found.detach())
    loss, grads = ours(folder, here.train)
    assert total == pytest.approx(loss, abs=1e-5)
    for parameter, grad in zip(student.model.parameters(), grads, strict=True):
        assert torch.allclose(parameter.grad, grad, rtol=1e-4, atol=1e-5)
    assert max(float(grad.abs().max()) for grad in grads) > 1e-2  # there is something to compare


def test_a_token_outside_both_masks_and_the_prompt_have_no_gradient(folder):
    exports.export(source(folder), "trl", folder / "out")
    batch = trl_loss.collate(pq.read_table(folder / "out/data.parquet").to_pylist(), 0)
    logits = torch.randn(*batch["input_ids"].shape, 21, requires_grad=True)
    batch["anchor_mask"] *= 0
    counts = trl_loss.counts([batch], False)
    trl_loss.loss(logits, torch.randn(logits.shape), batch, counts, 0.3, False, []).backward()
    moved = logits.grad.abs().sum(-1)[:, :-1] > 0
    assert torch.equal(moved, batch["signal_mask"][:, 1:] > 0)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
@pytest.mark.parametrize("reduce", ["response_sum", "token_mean"])
def test_trls_own_trainer_takes_the_step_of_our_objective(folder, monkeypatch, reduce):
    here = source(folder, reduce=reduce, batch_size=5, micro_batch_size=2, warmup_steps=0, clip=1e9)
    exports.export(here, "trl", folder / "out")
    for seed in (2, 3):
        policy = naive.tiny(seed)
        save(policy.model, policy.tokenizer, folder / str(seed), torch.float32)
    monkeypatch.syspath_prepend(folder / "out")
    for name in ("loss", "train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    train = importlib.import_module("train")
    changed = {"optim": "sgd", "learning_rate": 1.0, "disable_tqdm": True}
    changed |= {"max_steps": 1, "gradient_accumulation_steps": 3, "save_strategy": "no"}
    told = train.config(str(folder / "run"), **changed)
    trainer = train.trainer(str(folder / "2"), str(folder / "3"), told)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    loss, grads = ours(folder, here.train)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, abs=1e-4)
    for old, new, grad in zip(before, trainer.model.parameters(), grads, strict=True):
        assert torch.allclose(old - new, grad, rtol=1e-3, atol=1e-5)
    for name in ("loss", "train"):
        sys.modules.pop(name)


def test_json_lines_hold_the_examples_of_the_objective(folder):
    exports.export(source(folder), "jsonl", folder / "out")
    lines = [json.loads(x) for x in (folder / "out/rollouts.jsonl").read_text().splitlines()]
    for i, (line, example) in enumerate(zip(lines, examples(folder), strict=True)):
        (own,) = example.sequences
        assert line["messages"] == [{"role": "user", "content": f"{i // 2}+1?"}]
        assert line["token_ids"] == own.token_ids
        assert line["prompt_token_ids"] == own.context_ids
        assert np.array_equal(line["weights"], own.weight_T.astype(float))
        assert np.array_equal(line["signal_mask"], own.signal_T)
        assert np.array_equal(line["anchor_mask"], own.anchor_T)
        assert line["reward"] == i / 4


def test_verl_gets_its_five_fields_and_ours_in_extra_info(folder):
    exports.export(source(folder), "verl", folder / "out")
    rows = pq.read_table(folder / "out/train.parquet").to_pylist()
    assert list(rows[0]) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert rows[3]["prompt"] == [{"role": "user", "content": "1+1?"}]
    assert rows[3]["reward_model"] == {"style": "rule", "ground_truth": "1"}
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2, 3, 4]
    for row, example in zip(rows, examples(folder), strict=True):
        (own,), extra = example.sequences, row["extra_info"]
        assert extra["token_ids"] == own.token_ids
        assert np.array_equal(np.float32(extra["weights"]), own.weight_T)
        assert np.array_equal(extra["anchor_mask"], own.anchor_T)


def test_only_the_prompts_that_a_budget_leaves_are_exported(folder):
    capped = source(folder, match="student_tokens", cap=25, baseline="batch")
    found = list(trained(capped))  # 9 + 12 tokens of the first prompt, 20 of the second
    assert [x.row["rollout_id"] for x in found] == ["train-000000-0", "train-000000-1"]
    weights = np.concatenate([x.tokens.weight_T[x.tokens.signal_T] for x in found])
    assert weights.mean() == pytest.approx(0, abs=1e-6)  # the mean of what is kept was taken off
    with pytest.raises(UserError, match=r"experiment\.match: found a cap of 3 student_tokens"):
        list(trained(source(folder, match="student_tokens", cap=3)))


def test_row_groups_do_not_matter(folder, monkeypatch):
    whole = [x.tokens.weight_T.tolist() for x in trained(source(folder))]
    path = folder / "data/rollout/croll/rollouts.parquet"
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 2)
    tables.write(tables.read(path, schemas.ROLLOUTS), path, schemas.ROLLOUTS)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [x.tokens.weight_T.tolist() for x in trained(source(folder))] == whole


def test_targets_of_other_rollouts_are_refused(folder):
    path = folder / "data/rollout/croll/rollouts.parquet"
    tables.write(tables.read(path, schemas.ROLLOUTS).slice(0, 3), path, schemas.ROLLOUTS)
    with pytest.raises(UserError, match="targets: 2 of 6 are of no rollout of the round"):
        list(trained(source(folder)))


def test_the_exported_checkpoint_is_whole_and_answers_through_its_chat_template(folder):
    exports.export(source(folder), "hf", folder / "out")
    model = AutoModelForCausalLM.from_pretrained(folder / "out")
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    asked = [{"role": "user", "content": "12+3?"}]
    ids = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    own = load(folder / "data/train/ctrain/checkpoint")
    assert ids[0].tolist() == own.prompt_ids(asked)
    assert torch.equal(model(ids).logits, own.model(ids).logits)
    assert not list((folder / "out").glob("*.bin"))
    text = (folder / "out/README.md").read_text()
    front = YAML(typ="safe").load(text.split("---")[1])
    assert front == {"library_name": "transformers", "license": "unknown", "tags": ["omniopd"]}
    assert "arm `omniopd`, seed 0, round 1 of 1" in text
    assert "carries, a local checkpoint" in text
    assert "None: the experiment's report does not hold this round." in text


def test_an_adapter_is_exported_in_the_weights_of_its_base(folder, monkeypatch):
    monkeypatch.chdir(folder)
    base, adapter = Path("data/pretrain/cbase/checkpoint"), folder / "data/train/ctrain/checkpoint"
    own = students.student(base, Lora(rank=2, alpha=4.0, targets=("q_proj",)), 0, "cpu")
    for parameter in own.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    shutil.rmtree(adapter)
    students.keep(own, base, adapter)
    exports.export(source(folder), "hf", folder / "out")
    assert not list((folder / "out").glob("adapter*"))
    monkeypatch.chdir(folder / "out")  # from where the base is not to be found
    merged, plain = load(folder / "out").model, load(folder / base).model
    ids = torch.arange(2, 12)[None]
    logits = own.model(input_ids=ids).logits
    assert torch.allclose(merged(input_ids=ids).logits, logits, atol=1e-4)
    assert not torch.allclose(plain(input_ids=ids).logits, logits, atol=1e-2)


def test_the_card_has_the_results_of_this_plan_alone(folder):
    report = folder / "data/report"
    report.mkdir()
    row = {
        "arm": "omniopd", "seed": 0, "round": 1, "task": "arithmetic", "decoding": "sampled",
        "k": 4, "accuracy": 0.5, "low": 0.4, "high": 0.6, "diff": 0.1, "diff_low": -0.1,
        "diff_high": 0.3, "problems": 60,
    }  # fmt: skip
    (report / "results.json").write_text(json.dumps([row, row | {"round": 2, "accuracy": 0.9}]))
    (report / "run.json").write_text(json.dumps({"cell": "creport"}))
    text = card.card(source(folder))
    assert "| arithmetic | avg@4 | 60 | 0.500 [0.400, 0.600] | +0.100 [-0.100, +0.300] |" in text
    assert "0.900" not in text
    (report / "run.json").write_text(json.dumps({"cell": "cother"}))
    assert "0.500" not in card.card(source(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "data/train/ctrain/checkpoint/pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"found \['pytorch_model.bin'\], wanted weights as safe"):
        exports.export(source(folder), "hf", folder / "out")
    assert not (folder / "out").exists()


def test_nothing_that_is_there_is_written_over(folder):
    (folder / "out").mkdir()
    (folder / "out/mine").write_text("mine")
    with pytest.raises(UserError, match="wanted a new folder"):
        exports.export(source(folder), "jsonl", folder / "out")
    assert (folder / "out/mine").read_text() == "mine"


def test_an_arm_without_targets_says_what_it_has(folder):
    cells = {name: key for name, key in ARM.items() if name != "prior"}
    with pytest.raises(UserError, match=r"no prior\. Only a trained arm has a checkpoint"):
        exports.export(source(folder, cells), "trl", folder / "out")
    assert not (folder / "out").exists()


def test_ids_without_a_token_are_those_that_the_head_has_and_the_tokenizer_has_not(folder):
    assert trl.unused_ids(folder / "data/train/ctrain/checkpoint") == [18, 19, 20]


def test_a_round_is_found_by_arm_seed_and_round_and_a_wrong_one_is_named(folder, monkeypatch):
    plan = {"cells": {"arms": {"omniopd": {"seed-3": {"round-1": ARM, "round-2": ARM}}}}}
    with (folder / "plan.yaml").open("w") as file:
        YAML().dump(plan, file)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    found = find(str(folder), None, None)
    assert (found.arm, found.seed, found.round, found.rounds) == ("omniopd", 3, 2, 2)
    assert find(str(folder), 3, 1).round == 1
    with pytest.raises(UserError, match=r"--seed 1: arm omniopd has \[3\]"):
        find(str(folder), 1, None)
    with pytest.raises(UserError, match=r"--round 7: arm omniopd has \[1, 2\]"):
        find(str(folder), None, 7)
    monkeypatch.setattr("pipeline.runner.dag.plan_files.current", lambda: plan)
    with pytest.raises(UserError, match="'nobody' is neither an arm of the plan nor an audit's"):
        find("nobody", None, None)
    failed = CliRunner().invoke(app, ["export", "nobody", "--to", "zip", "--out", "x"])
    assert failed.exit_code == 2
