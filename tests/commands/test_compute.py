"""What an experiment takes, against models that are really built, counters and hand counts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from pipeline.commands.estimate import compute_table, footprint, products
from pipeline.commands.estimate.compute import Cell, Experimental
from pipeline.commands.estimate.compute_table import Card
from pipeline.commands.estimate.footprint import Cost, Rows, Training
from pipeline.config.method import Lora
from pipeline.config.models import LlamaInit, PretrainModel, Shape
from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.engines import adapters, hf
from pipeline.plan import expand, experiment, model_shapes
from pipeline.plan.model_shapes import Size
from tests import naive
from tests.project import MINIATURE, ROOT

TINY = Shape(
    layers=3, hidden=32, heads=4, kv_heads=2, head_dim=8, mlp=48, vocabulary=100, tied=False
)
CPU, GPU = Runtime(), Runtime(device="cuda")


def built(shape, kind=LlamaConfig, model=LlamaForCausalLM):
    """A model of this shape, on no device when it is large."""
    config = kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.mlp,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta" if shape.hidden > 64 else "cpu"):
        return model(config)


def matrices(model):
    return sum(p.numel() for p in model.parameters() if p.ndim == 2)


@pytest.mark.parametrize("name", model_shapes.TABLE)
def test_weights_counted_from_a_shape_are_those_of_the_built_model(name):
    shape = Shape(**dict(zip(Shape.model_fields, model_shapes.TABLE[name], strict=True)))
    kinds = (Qwen3Config, Qwen3ForCausalLM) if "Qwen" in name else (LlamaConfig, LlamaForCausalLM)
    assert Size(shape, 2, "").weights == matrices(built(shape, *kinds))
    said = float(name.partition("-")[2].partition("B")[0]) if "Qwen" in name else 0.135
    assert Size(shape, 2, "").weights / 1e9 == pytest.approx(said, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_holds_the_bytes_that_are_estimated(tmp_path, tied, dtype):
    shape = TINY.model_copy(update={"tied": tied})
    policy = naive.tiny(1)
    hf.save(built(shape), policy.tokenizer, tmp_path / "checkpoint", dtype)
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    held = sum(x.nbytes for x in stored.values() if x.ndim == 2)
    assert held == Size(shape, dtype.itemsize, "").weights * dtype.itemsize
    found = hf.load(tmp_path / "checkpoint").model
    same = found.get_input_embeddings().weight is found.get_output_embeddings().weight
    assert same == tied


def test_a_shape_comes_from_the_config_that_transformers_writes():
    assert model_shapes.of_config(built(TINY).config.to_dict()) == TINY
    with pytest.raises(UserError, match="State `shape`"):
        model_shapes.of_config({"n_layer": 12})


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_the_weights_of_an_adapter_are_those_that_peft_adds(targets):
    model, settings = built(TINY), Lora(rank=5, alpha=1.0, targets=targets)
    adapters.add(model, settings, 0)
    added = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert Size(TINY, 4, "").adapter(settings) == added


def test_keys_and_values_of_a_token_are_what_the_cache_holds():
    model, cache = built(TINY), DynamicCache()
    model(torch.zeros(2, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert Size(TINY, 4, "").cached * 2 * 7 == held


def operations(model, ids, backward=False):
    """What torch counts, attention in full: a causal mask halves it."""
    with FlopCounterMode(display=False) as counter:
        logits = model(ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("passes", [1, 2])
def test_operations_are_those_that_torch_counts(passes):
    model, size, length = built(TINY), Size(TINY, 4, ""), 12
    model.set_attn_implementation("eager")
    rows = Rows(3, 0, length)  # every token has logits, as in the plain model
    ids = torch.zeros(rows.number, length, dtype=torch.long)
    half = rows.number * length * size.attention(length / 2)  # the masked half, counted by torch
    assert footprint.read(size, rows).operations + half == operations(model, ids)
    found = Training(rows, 1, None, 32, norms_every=passes - 1)  # 1: each step goes back twice
    per_pass = operations(built(TINY), ids, backward=True) - operations(model, ids)
    wanted = operations(model, ids) + passes * per_pass
    # attention through a kernel counts otherwise: within it
    assert footprint.trained(size, found, CPU).operations == pytest.approx(wanted, rel=0.1)


def test_a_prompt_that_rows_share_is_read_once():
    size, rows = Size(TINY, 4, ""), Rows(8, 30, 10)
    alone, shared = (footprint.read(size, rows, each).operations for each in (1, 4))
    body = 2 * size.body + size.attention(20)
    assert alone - shared == 6 * 30 * body  # of eight prompts six are not read again


def test_the_exact_pass_holds_prompts_and_a_layer_of_the_rows_behind_them():
    size, rows = Size(TINY, 4, ""), Rows(5000, 20, 80)
    parts = footprint.exact(size, rows, CPU.model_copy(update={"batch_tokens": 200_000}))
    most = (1 << 21) // TINY.hidden
    held = 4 * most // 100 * 100
    layer = 2 * min(200_000, held) / TINY.layers  # made twice
    assert parts["KV cache"] == pytest.approx((most + layer) * size.cached)
    few = footprint.exact(size, rows._replace(number=3), CPU)
    assert few["KV cache"] == pytest.approx((300 + 2 * 300 / TINY.layers) * size.cached)
    assert parts["activations"] == most / 300 * few["activations"]


def test_recomputing_layers_takes_memory_and_gives_operations():
    size, found = Size(TINY, 4, ""), Training(Rows(8, 10, 90), 4, None, 32, 2, None, True)
    again = CPU.model_copy(update={"gradient_checkpointing": True})
    plain, recomputed = (footprint.training(size, found, r)["activations"] for r in (CPU, again))
    assert recomputed < plain / 2
    more = footprint.trained(size, found, again).operations
    assert more > footprint.trained(size, found, CPU).operations


def test_memory_of_training_is_the_hand_count():
    size, w, v = Size(TINY, 2, ""), Size(TINY, 2, "").weights, 100 * 32
    found = Training(Rows(8, 10, 90), 4, None, 32, 2, None, True)
    parts = footprint.training(size, found, CPU)
    assert parts["weights"] == 4 * w
    assert parts["gradients"] == 3 * 4 * w + 2 * 4 * v  # one beside, one on its way; the head's
    assert parts["moments"] == 8 * w
    assert parts["reference"] == 2 * w + 4 * v  # bfloat16, and a head in float32
    eight = footprint.training(size, found._replace(moment_bits=8), CPU)
    assert eight["moments"] == 2 * w
    adapter = found._replace(lora=Lora(rank=2, alpha=1.0, targets=("q_proj",)))
    small = footprint.training(size, adapter, CPU)
    assert small["weights"] == 2 * w
    assert small["adapter"] == 3 * 2 * (32 + 32) * (4 + 3 * 4 + 8)
    assert "reference" not in small  # the student with its adapter off
    assert "gradients" not in small


def test_processes_share_models_and_work_and_gather_a_layer_and_a_head():
    size, w, v = Size(TINY, 2, ""), Size(TINY, 2, "").weights, 100 * 32
    one = Training(Rows(8, 10, 90), 4, None, 32, 2, None, True)
    four = one._replace(processes=4)
    alone, parts = (footprint.training(size, found, CPU) for found in (one, four))
    layer = (w - 2 * v) / 3 if not TINY.tied else (w - v) / 3
    assert parts.pop("gathered") == 4 * (layer + v)
    whole = {"activations", "slices of logits"}
    assert parts == {name: alone[name] / (1 if name in whole else 4) for name in alone}
    times = [footprint.trained(size, found, CPU).operations for found in (one, four)]
    assert times[0] == 4 * times[1]
    several = GPU.model_copy(update={"tensor_parallel": 2, "data_parallel": 2})
    for engine, share in (("vllm", 4), ("hf", 1)):
        costs = [footprint.sampled(size, one.rows, engine, how) for how in (GPU, several)]
        assert costs[0].operations == share * costs[1].operations


def test_batches_are_bounded_by_tokens_and_engines_by_their_share():
    size = Size(TINY, 2, "")
    few = CPU.model_copy(update={"batch_tokens": 400})
    assert Rows(50, 20, 80).together(400) == 4
    parts = footprint.sampling(size, Rows(50, 20, 80), "hf", few)
    assert parts["KV cache"] == pytest.approx(400 * size.cached * (1 + 1 / 3))
    shared = GPU.model_copy(update={"tensor_parallel": 2})
    parts = footprint.sampling(size, Rows(50, 20, 80), "vllm", shared)
    assert parts["weights"] == size.weights
    assert parts["KV cache"] == 8 * 100 * size.cached / 2


def finished(tmp_path, label, operations_, seconds):
    folder = tmp_path / label.replace(" ", "-")
    if seconds is not None:
        folder.mkdir()
        run = {"seconds": seconds - 1.0, "start_seconds": 1.0}
        (folder / "run.json").write_text(json.dumps(run))
    return Cell(label, folder, Cost(operations_, 6e9, 10))


def test_what_was_measured_wins_and_one_stage_tells_of_the_others(tmp_path):
    cells = [finished(tmp_path, "rollout", 4e12, 8.0), finished(tmp_path, "train", 3e12, None)]
    rates, stated = compute_table.measured(cells), Card(2.0, 3.0)
    assert rates == {"rollout": 5e11, "": 5e11}
    assert [compute_table.seconds(c, rates, stated, CPU) for c in cells] == [8.0, 6.0]
    # 2 TFLOPS and 3 GB/s: 1.5 s of arithmetic and 2 s of reading; on a GPU at least 0.25 s of steps
    assert compute_table.seconds(cells[1], {}, stated, CPU) == 3.5
    assert compute_table.seconds(cells[1], {}, Card(2.0, 600.0), GPU) == 1.75
    assert compute_table.seconds(cells[1], {}, None, CPU) is None


def test_a_card_is_stated_on_the_command_line_or_in_params_and_whole():
    both = CPU.model_copy(update={"tflops": 1.0, "gb_per_s": 2.0})
    assert compute_table.card(both, None, None) == Card(1.0, 2.0)
    assert compute_table.card(both, 9.0, None) == Card(9.0, 2.0)
    assert compute_table.card(CPU, 9.0, None) is None


def load(tmp_path, edit):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    edit(values)
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return experiment.load(tmp_path / "params.yaml")


def put(values, **pretrain):
    name = values["experiment"]["student"]
    init = {"kind": "hub", "name": "someone/else"}
    values["pretrain"]["models"][name] |= {"init": init, **pretrain}
    values["train"]["lora"] = "none"


def test_a_model_of_unknown_shape_is_named_and_its_stated_shape_changes_no_cell(tmp_path):
    unknown = load(tmp_path, put)
    with pytest.raises(UserError, match="no shape is known of someone/else"):
        Experimental(unknown, expand.expand(unknown))
    stated = load(tmp_path, lambda v: put(v, shape=TINY.model_dump()))
    assert expand.expand(stated) == expand.expand(unknown)
    assert Experimental(stated, expand.expand(stated)).student.shape == TINY


def estimated(tmp_path, monkeypatch, edit=lambda values: None):
    file = load(tmp_path, edit)
    monkeypatch.chdir(tmp_path)
    return compute_table.found(Experimental(file, expand.expand(file)), Card(1.0, 1.0))


def test_the_cache_holds_a_checkpoint_for_every_train_cell(tmp_path, monkeypatch):
    def three(values):
        values["experiment"].update(rounds=3, arms=["omniopd", "sft"])
        values["train"]["optimizer"] = "carry"

    found = {row["what"]: row["gb"] for row in estimated(tmp_path, monkeypatch, three).cache}
    file = load(tmp_path, three)
    weights = Experimental(file, expand.expand(file)).student.weights
    assert found["trained weights"] * 1e9 == pytest.approx(2 * 3 * 4 * weights)
    assert found["optimizer state"] * 1e9 == pytest.approx(2 * 3 * 8 * weights)


def test_dropped_rounds_take_no_cache(tmp_path, monkeypatch):
    checkpoints = {"all": 3, "every:2": 2, "last": 1}
    found = {}
    for keep in checkpoints:

        def edit(values, keep=keep):
            values["experiment"].update(rounds=3, arms=["omniopd"], keep_checkpoints=keep)

        monkeypatch.chdir(tmp_path)
        file = load(tmp_path, edit)
        cells = Experimental(file, expand.expand(file)).cells()
        found[keep] = sum(1 for cell in cells if "trained weights" in cell.cache)
    assert found == checkpoints


def test_cells_that_arms_share_are_counted_once(tmp_path, monkeypatch):
    def arms(*names):
        def edit(values):
            values["experiment"].update(rounds=1, arms=list(names))

        rows = estimated(tmp_path, monkeypatch, edit).hours
        return {row["stage"]: row["cells"] for row in rows}

    both = arms("omniopd", "shuffled-scores")
    assert both["rollout"] == both["teach, continuations"] == 1
    assert both["train omniopd"] == 2


@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("laptop-gpu", 24),
        ("qwen3-claude-haiku", 24),
        ("qwen3-gemini", 24),
        ("qwen3-openweight", 80),
    ],
)
def test_each_profile_fits_the_card_that_it_names(name, gb, tmp_path, monkeypatch):
    file = experiment.load(ROOT / "pipeline/commands/profiles" / f"{name}.yaml")
    monkeypatch.chdir(tmp_path)
    found = compute_table.found(Experimental(file, expand.expand(file)), None)
    assert max(row["gb"] for row in found.memory) < gb
    assert {row["hours"] for row in found.hours} == {None}
    shown = compute_table.text(found)
    assert "state --tflops and --gb-per-s" in shown
    assert all(line in shown for line in found.assumptions)
    assert (
        f"one GPU of {gb} GB"
        in Path(ROOT / "pipeline/commands/profiles" / f"{name}.yaml").read_text()
    )


@pytest.mark.parametrize(("device", "multiplies"), [("cpu", False), ("cpu", True), ("cuda", False)])
def test_bfloat16_on_a_processor_without_its_products_is_told(device, multiplies, monkeypatch):
    init = LlamaInit(kind="llama", hidden=32, layers=1, heads=2, mlp=32)
    models = {
        name: PretrainModel(init=init, steps=1, batch_size=1, lr=1e-3, dtype=dtype)
        for name, dtype in [("fine", "float32"), ("coarse", "bfloat16")]
    }
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: multiplies)
    told = products.line(models, Runtime(device=device))
    assert (told is None) == (multiplies or device != "cpu")
    assert told is None or told.startswith("pretrain.models: coarse: found dtype: bfloat16")
    assert products.line({"fine": models["fine"]}, Runtime(device=device)) is None


def test_a_processor_without_products_of_bfloat16_is_seen():
    """OneDNN obeys the variable on any processor, so both answers are seen on a newer one."""
    seen = subprocess.run(
        [sys.executable, "-c", f"import {products.__name__} as p; print(p.multiplies_bfloat16())"],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == "False"
