"""Adapters: the same losses and gradients as merged weights, the same model in every stage."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from pipeline.commands import lm_eval
from pipeline.config.method import Lora
from pipeline.core.errors import UserError
from pipeline.engines import adapters, checkpoints, hf, scoring_pass
from pipeline.engines.hf import Frozen
from pipeline.training import students
from pipeline.training.gradients import gradients, recompute
from pipeline.training.optimizer import Optimizer
from pipeline.training.optimizer_steps import Step
from tests import naive
from tests.training.test_training import BETA, REFERENCED, TERMS, close, examples, step

SETTINGS = Lora(rank=3, alpha=5.0, targets=("q_proj", "v_proj", "down_proj"))


def adapted(seed=1, settings=SETTINGS):
    """The base of this seed with an adapter of which no factor is zero."""
    policy = naive.tiny(seed)
    adapters.add(policy.model, settings, 0)
    torch.manual_seed(7)
    for parameter in trained(policy.model).values():
        parameter.data.normal_(std=0.2)
    return policy


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Merged:
    """A float64 model whose weights are W + alpha / rank * B A of the factors given."""

    def __init__(self, base, factors):
        self.model, self.weights = base, {}
        for name, a in factors.items():
            if "lora_A" in name:
                b = factors[name.replace("lora_A", "lora_B")]
                weight = name.replace(".lora_A.default", "")
                scale = SETTINGS.alpha / SETTINGS.rank
                self.weights[weight] = base.get_parameter(weight) + scale * b @ a

    def __call__(self, **inputs):
        return torch.func.functional_call(self.model, self.weights, kwargs=inputs)


def expected(objective, student, frozen, found):
    """Loss and gradients of the factors by plain float64 autograd through merged weights."""
    base = naive.double(naive.tiny(1)).requires_grad_(False)
    pairs = trained(student.model).items()
    factors = {name: p.detach().double().requires_grad_() for name, p in pairs}
    model = Merged(base, factors)
    teacher = frozen.teacher and naive.double(frozen.teacher)
    reference = base if frozen.reference else None
    signal = anchor = torch.zeros((), dtype=torch.float64)
    for example in found:
        for item in example.sequences:
            vocabulary = len(student.tokenizer)
            s, a = naive.signal_and_anchor(objective, model, teacher, reference, item, vocabulary)
            signal, anchor = signal + s, anchor + a
    loss = (signal + BETA * anchor) / len(found)
    loss.backward()
    return float(loss.detach()), [factor.grad for factor in factors.values()]


def beside(objective, student):
    return Frozen(
        student if objective in REFERENCED else None,
        naive.tiny(3) if objective.startswith(("opd", "gkd")) else None,
    )


def total(sums):
    return sums.grads


@pytest.mark.parametrize("objective", list(TERMS))
def test_loss_and_gradients_of_an_adapter_equal_naive_float64_with_merged_weights(objective):
    student, found = adapted(), examples(objective)
    frozen = beside(objective, student)
    sums, metrics = gradients(student, frozen, found, step(objective))
    loss, grads = expected(objective, student, frozen, found)
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    close(total(sums), grads)
    assert max(float(g.abs().max()) for g in grads) > 1e-3
    assert len(grads) == 2 * 2 * 3  # factors of three layers in each of two blocks, nothing else


@pytest.mark.parametrize("objective", list(TERMS))
def test_an_adapter_and_its_split_into_micro_batches_by_count_or_tokens_agree(objective):
    student = adapted()
    frozen, found = beside(objective, student), examples(objective)
    whole, _ = gradients(student, frozen, found, step(objective, size=5))
    for size, batch_tokens in ((1, None), (2, None), (5, 24)):
        cut = Step(TERMS[objective](), step(objective).beta, False, size, False, batch_tokens)
        split, _ = gradients(student, frozen, found, cut)
        close(whole.signal_grads, [g.double() for g in split.signal_grads])
        close(whole.grads, [g.double() for g in split.grads])


@pytest.mark.parametrize("make", [adapted, partial(naive.tiny, 1)])
@pytest.mark.parametrize("objective", list(TERMS))
def test_recomputed_layers_give_the_gradients_of_kept_ones(objective, make):
    found, plain, again = examples(objective), make(), make()
    recompute(again.model)
    one, before = gradients(plain, reference(objective, plain), found, step(objective))
    two, after = gradients(again, reference(objective, again), found, step(objective))
    assert after["train/loss"] == before["train/loss"]
    assert all(torch.equal(a, b) for a, b in zip(total(one), total(two), strict=True))
    assert max(float(g.abs().max()) for g in total(one)) > 1e-3


def reference(objective, student):
    found = beside(objective, student)
    return found if adapters.has(student.model) else found._replace(reference=naive.tiny(2))


def test_recomputing_forgets_what_a_layer_computes_inside():
    """Tensors that wait for the backward pass: fewer, by more than half."""

    def kept(model):
        sizes = []

        def note(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model.base_model(input_ids=torch.arange(12)[None], use_cache=False)
        return sum(sizes)

    plain, again = naive.tiny(1).model, naive.tiny(1).model
    recompute(again)
    assert 0 < kept(again) < kept(plain) / 2
    assert not any(m.training for n, m in again.named_modules() if n.endswith("self_attn"))


def scored(policy):
    rows = [[3, 2, 5], [4, 4]]
    return [
        (i, logps.tolist(), entropies.tolist())
        for i, logps, entropies in scoring_pass.exact(policy, rows, [[6, 7, 8], [9, 3]], 64)
    ]


def test_with_the_adapter_off_a_model_is_its_base_to_the_last_bit():
    base, student = naive.tiny(1), adapted()
    with adapters.switched_off(student.model):
        assert scored(student) == scored(base)
    assert scored(student) != scored(base)
    assert len(trained(student.model)) == 12  # they can be trained again


def test_the_adapter_as_reference_gives_what_a_second_copy_of_the_base_gives():
    student, found = adapted(), examples("omniopd")
    one, with_one = gradients(student, Frozen(student), found, step("omniopd"))
    two, with_two = gradients(student, Frozen(naive.tiny(1)), found, step("omniopd"))
    assert with_one == with_two
    assert with_one["train/anchor"] > 0.01
    assert all(torch.equal(a, b) for a, b in zip(total(one), total(two), strict=True))


def test_a_new_adapter_changes_nothing_and_is_drawn_from_its_seed():
    one, two, other = naive.tiny(1), naive.tiny(1), naive.tiny(1)
    for policy, seed in ((one, 4), (two, 4), (other, 5)):
        adapters.add(policy.model, SETTINGS, seed)
    assert scored(one) == scored(naive.tiny(1))
    factors = [list(trained(policy.model).values()) for policy in (one, two, other)]
    assert all(torch.equal(a, b) for a, b in zip(factors[0], factors[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(factors[0], factors[2], strict=True))


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A whole checkpoint at its path from the project's folder."""
    monkeypatch.chdir(tmp_path)
    policy = naive.tiny(1)
    hf.save(policy.model, policy.tokenizer, tmp_path / "base", torch.float32)
    return (tmp_path / "base").relative_to(tmp_path)


def saved(base, folder):
    """An adapter on `base` of which no factor is zero."""
    student = students.student(base, SETTINGS, 0, "cpu")
    torch.manual_seed(7)
    for parameter in trained(student.model).values():
        parameter.data.normal_(std=0.2)
    students.keep(student, base, folder)
    return student


def train(student, frozen, optimizer, rounds):
    for seed in rounds:
        sums, _ = gradients(student, frozen, examples("omniopd", seed), step("omniopd"))
        optimizer.step(total(sums))


def adam(student):
    return Optimizer(student.model, 1e-2, (0.9, 0.98), 2, 1.0)


def test_two_rounds_through_files_end_in_the_weights_of_two_rounds_in_memory(base, tmp_path):
    straight = students.student(base, SETTINGS, 0, "cpu")
    train(straight, Frozen(straight), adam(straight), (0, 1, 2, 3))
    policy = base
    for number, seeds in ((1, (0, 1)), (2, (2, 3))):
        student = students.student(policy, SETTINGS, 0, "cpu")
        frozen = students.frozen(student, policy, base, None, "cpu")
        assert frozen.reference is student
        optimizer = adam(student)
        if number == 2:
            optimizer.load(tmp_path / "moments1")
        train(student, frozen, optimizer, seeds)
        out = tmp_path / f"round{number}"
        students.keep(student, policy, out)
        students.keep_moments(student, policy, optimizer, tmp_path / f"moments{number}")
        policy = out
    assert checkpoints.base(policy) == base  # never the adapter of the round before
    loaded = students.student(policy, SETTINGS, 0, "cpu")
    for name, value in trained(straight.model).items():
        assert torch.equal(value, trained(loaded.model)[name])
    assert any(value.any() for n, value in trained(loaded.model).items() if "lora_B" in n)
    names = load_file(tmp_path / "moments2")
    assert len(names) == 2 * 12 + 1
    assert all("lora_" in name for name in names if name != "step")


def test_a_saved_adapter_loads_like_any_checkpoint_and_is_what_was_saved(base, tmp_path):
    student = saved(base, tmp_path / "adapter")
    found = hf.load(tmp_path / "adapter")
    assert scored(found) == scored(student)
    assert scored(found) != scored(hf.load(base))
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert "model.safetensors" not in files
    safe = {"dtype": "auto", "trust_remote_code": False, "use_safetensors": True}
    on_base = {"pretrained": "base", "peft": str(tmp_path / "adapter"), **safe}
    assert lm_eval.model_args(tmp_path / "adapter") == on_base
    assert lm_eval.model_args(base) == {"pretrained": "base", **safe}


def test_a_saved_adapter_is_one_that_peft_itself_reads(base, tmp_path):
    from peft import AutoPeftModelForCausalLM

    student = saved(base, tmp_path / "adapter")
    theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        ours = student.model(input_ids=ids).logits
        assert torch.equal(ours, theirs(input_ids=ids).logits)
        merged = theirs.merge_and_unload()(input_ids=ids).logits
    assert torch.allclose(ours, merged, atol=1e-4)


def test_equal_adapters_are_equal_files_and_their_hash_does_not_depend_on_the_path(base, tmp_path):
    saved(base, tmp_path / "one")
    saved(base, tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    known = checkpoints.fingerprint(tmp_path / "one")
    config = tmp_path / "two" / "adapter_config.json"
    values = json.loads(config.read_text())
    assert values["target_modules"] == sorted(SETTINGS.targets)
    (tmp_path / "base").rename(tmp_path / "moved")
    config.write_text(json.dumps(values | {"base_model_name_or_path": "moved"}))
    assert checkpoints.fingerprint(tmp_path / "two") == known
    assert scored(hf.load(tmp_path / "two"))
    config.write_text(json.dumps(values | {"lora_alpha": 6.0}))
    assert checkpoints.fingerprint(tmp_path / "two") != known


def test_another_base_is_refused_and_so_is_none(base, tmp_path):
    saved(base, tmp_path / "adapter")
    other = naive.tiny(2)
    hf.save(other.model, other.tokenizer, base, torch.float32)
    with pytest.raises(UserError, match=r"the one that the adapter .* was trained on"):
        hf.load(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"base: not found.*dvc checkout base"):
        hf.load(tmp_path / "adapter")


def test_another_reference_than_the_base_is_refused(base, tmp_path):
    student = saved(base, tmp_path / "adapter")
    other = naive.tiny(2)
    hf.save(other.model, other.tokenizer, tmp_path / "other", torch.float32)
    with pytest.raises(UserError, match="found another reference than base"):
        students.frozen(student, tmp_path / "adapter", tmp_path / "other", None, "cpu")


def test_pickled_weights_are_refused(base, tmp_path):
    saved(base, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"found weights as adapter_model\.bin"):
        hf.load(tmp_path / "adapter")
    whole = tmp_path / "base" / "model.safetensors"
    torch.save(load_file(whole), tmp_path / "base" / "pytorch_model.bin")
    whole.rename(tmp_path / "base" / "other.safetensors")
    with pytest.raises(UserError, match="not loadable"):
        hf.load(base)


def test_code_of_a_checkpoint_never_runs(base, tmp_path):
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["model_type"] = "unheard-of"
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (tmp_path / "base" / "own.py").write_text(code)
    with pytest.raises(UserError, match="trust_remote_code"):
        hf.load(base)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "wanted LORA"),
        ({"r": 4}, "not the 12 that its config asks"),
        ({"target_modules": ["q_proj"]}, "not the 4 that its config asks"),
    ],
)
def test_an_adapter_that_does_not_fit_its_config_is_refused(base, tmp_path, change, said):
    saved(base, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=said):
        hf.load(tmp_path / "adapter")


@pytest.mark.parametrize("targets", [("q_proj", "nobody"), ("nobody",), ("lm_head",)])
def test_targets_that_are_no_layers_of_the_body_are_refused(targets):
    with pytest.raises(UserError, match=r"train\.lora\.targets"):
        adapters.add(naive.tiny(1).model, Lora(rank=2, alpha=2.0, targets=targets), 0)


def test_all_linear_is_every_linear_layer_but_the_head(base, tmp_path):
    settings = Lora(rank=2, alpha=2.0, targets="all-linear")
    student = students.student(base, settings, 0, "cpu")
    assert len(trained(student.model)) == 2 * 2 * 7
    students.keep(student, base, tmp_path / "adapter")
    again = students.student(tmp_path / "adapter", settings, 0, "cpu")
    assert len(trained(again.model)) == 2 * 2 * 7


def test_an_adapter_of_other_settings_than_the_cells_is_refused(base, tmp_path):
    saved(base, tmp_path / "adapter")
    for settings in (None, Lora(rank=4, alpha=5.0, targets=SETTINGS.targets)):
        with pytest.raises(UserError, match="other settings"):
            students.student(tmp_path / "adapter", settings, 0, "cpu")


def test_on_a_bfloat16_base_only_the_adapter_is_float32_and_gradients_stay_close(tmp_path):
    policy = naive.tiny(1)
    hf.save(policy.model, policy.tokenizer, tmp_path / "base", torch.bfloat16)
    student = saved(tmp_path / "base", tmp_path / "adapter")
    dtypes = {p.dtype for n, p in student.model.named_parameters() if "lora_" not in n}
    assert dtypes == {torch.bfloat16}
    assert {p.dtype for p in trained(student.model).values()} == {torch.float32}
    optimizer = adam(student)
    frozen, found = Frozen(student), examples("omniopd")
    coarse = Step(TERMS["omniopd"](), BETA, False, 3, bfloat16=True)
    sums, metrics = gradients(student, frozen, found, coarse)
    exactly, wanted = gradients(
        plain := hf.load(tmp_path / "adapter", dtype=torch.float32), Frozen(plain), found,
        step("omniopd"),
    )  # fmt: skip
    assert metrics["train/loss"] == pytest.approx(wanted["train/loss"], rel=0.02)
    one, two = (torch.cat([g.flatten() for g in total(s)]) for s in (sums, exactly))
    assert float(torch.cosine_similarity(one, two, dim=0)) > 0.99
    optimizer.step(total(sums))
    students.keep_moments(student, tmp_path / "base", optimizer, tmp_path / "moments")
    assert not any(name.startswith("weight.") for name in load_file(tmp_path / "moments"))
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
