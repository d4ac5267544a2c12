import dataclasses
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.core.chosen import chosen, file_of
from pipeline.core.errors import UserError
from pipeline.engines import hf
from pipeline.engines.hf import Frozen
from pipeline.method.objectives import (
    OBJECTIVES,
    Example,
    Sequence,
    declared,
    grpo,
    omniopd,
    rft,
)
from pipeline.method.objectives.weighted import everywhere
from pipeline.training import relative, students
from pipeline.training.gradients import gradients
from pipeline.training.optimizer import Optimizer
from pipeline.training.optimizer_steps import Step, order
from pipeline.training.process_group import One
from tests import naive


def terms(name, correct=False, **settings):
    """The loss of a slice by an objective's settings, those that it does not have left out."""
    settings["importance_ratio"] = "ratio" if correct else "none"
    own = declared(name).settings.model_construct(**settings)
    return partial(chosen("pipeline.method.objectives", file_of(name), "terms"), own=own)


TERMS = {name: partial(terms, name) for name in OBJECTIVES if name != "gkd"}
TERMS |= {f"gkd{beta}": partial(terms, "gkd", jsd_beta=beta) for beta in (0.0, 0.3, 1.0)}
BETA = 0.3
ANCHORED = ("omniopd", "imitate-forks", "opd-forks", "preference", "one-sided")
PAIRED = ("preference", "soda")
REFERENCED = (*ANCHORED, *PAIRED)


def sequence(draw, objective, length):
    """Random tokens with masks as the objective makes them; old logps as a drifted policy's."""
    signal = np.ones(length, bool)
    weight = np.ones(length, np.float32)
    old = np.log(draw.uniform(0.05, 0.9, length)).astype(np.float32)
    anchor = np.zeros(length, bool)
    if objective in ANCHORED:
        signal = draw.random(length) < 0.5
        weight = draw.random(length).astype(np.float32)
        anchor = ~signal
    if objective == "grpo":
        weight[:] = draw.normal()
    if objective == "one-sided":
        weight = -weight
    if objective == "sft":
        old = None
    ids = draw.integers(2, 18, length).tolist()
    return Sequence(draw.integers(2, 18, 5).tolist(), ids, signal, weight, anchor, old)


def examples(objective, seed=0):
    draw = np.random.default_rng(seed)
    lengths = [7, 12, 1, 9, 5]
    if objective in PAIRED:
        return [pairs(draw, objective, length) for length in lengths]
    return [Example([sequence(draw, objective, length)]) for length in lengths]


def pairs(draw, objective, length):
    """A response with a chunk or two, and what is preferred to each."""
    response = sequence(draw, objective, length)
    number_T = np.ones(length, np.float32)
    if objective == "preference":
        signal_T = np.arange(length) >= length // 3
        number_T = signal_T + (np.arange(length) >= 2 * length // 3).astype(np.float32)
        response = response._replace(signal_T=signal_T, anchor_T=~signal_T)
    answers = [
        sequence(draw, "sft", 4)._replace(weight_T=np.full(4, number, np.float32))
        for number in sorted({*number_T.tolist(), number_T[-1]} - {0.0})
        for _ in range(2 if objective == "preference" and number == 1 else 1)
    ]
    return Example([response._replace(weight_T=number_T), *answers])


def step(objective, size=3, token_mean=False, correct=False):
    beta = BETA if objective in ANCHORED else 0.0
    return Step(TERMS[objective](correct=correct), beta, token_mean, size)


def weighed(objective, student, frozen, found, how):
    """The pairs with the weights that they have as a step begins."""
    declaration = declared(objective)
    own = declaration.settings.model_construct(pair_beta=0.7)
    return relative.weighed(
        student,
        frozen,
        found,
        how,
        lambda example, ratios: declaration.relative(example, ratios, own),
    )


def expected(objective, student, frozen, found, token_mean=False, correct=False):
    """Loss and gradient by plain float64 autograd."""
    model = naive.double(student)
    teacher, reference = (p and naive.double(p) for p in (frozen.teacher, frozen.reference))
    vocabulary = len(student.tokenizer)
    signal = anchor = torch.zeros((), dtype=torch.float64)
    for example in found:
        for item in example.sequences:
            s, a = naive.signal_and_anchor(
                objective, model, teacher, reference, item, vocabulary, correct
            )
            signal, anchor = signal + s, anchor + a
    sequences = [item for example in found for item in example.sequences]
    over_signal = sum(s.signal_T.sum() for s in sequences) if token_mean else len(found)
    over_anchor = sum(s.anchor_T.sum() for s in sequences) if token_mean else len(found)
    loss = signal / float(over_signal) + BETA * anchor / max(float(over_anchor), 1)
    loss.backward()
    return float(loss), [p.grad for p in model.parameters()]


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5)


def frozen_for(objective):
    """Two different models where the objective reads two."""
    return Frozen(
        naive.tiny(2) if objective in REFERENCED else None,
        naive.tiny(3) if objective.startswith(("opd", "gkd")) else None,
    )


@pytest.mark.parametrize("token_mean", [False, True])
@pytest.mark.parametrize("objective", list(TERMS))
def test_loss_and_gradient_equal_naive_float64(objective, token_mean):
    student, frozen = naive.tiny(1), frozen_for(objective)
    found = examples(objective)
    sums, metrics = gradients(student, frozen, found, step(objective, token_mean=token_mean))
    loss, grads = expected(objective, student, frozen, found, token_mean)
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    close(sums.grads, grads)
    assert max(float(g.abs().max()) for g in grads) > 1e-3  # there is something to compare


@pytest.mark.parametrize("objective", ["omniopd", "opd-forks", "opd"])
def test_what_is_trained_on_is_the_same_to_the_bit_whether_norms_are_measured_or_not(objective):
    student, frozen, found = naive.tiny(1), frozen_for(objective), examples(objective)
    measured, with_norms = gradients(student, frozen, found, step(objective))
    silent = dataclasses.replace(step(objective), norms=False)
    plain, without = gradients(student, frozen, found, silent)
    assert all(torch.equal(a, b) for a, b in zip(measured.grads, plain.grads, strict=True))
    assert plain.signal_grads == []
    assert (measured.has_signal, plain.has_signal) == (True, True)
    norms = {"train/signal_grad_norm", "train/anchor_grad_norm"}
    assert {name for name, value in without.items() if value is None} == norms
    assert {n: v for n, v in with_norms.items() if n not in norms} == {
        n: v for n, v in without.items() if n not in norms
    }


def test_each_norm_is_that_of_its_term_alone():
    student, frozen, found = naive.tiny(1), frozen_for("omniopd"), examples("omniopd")
    _, metrics = gradients(student, frozen, found, step("omniopd"))
    for term, other in (("signal", "anchor_T"), ("anchor", "signal_T")):
        alone = [
            Example([s._replace(**{other: np.zeros_like(s.anchor_T)}) for s in e.sequences])
            for e in found
        ]
        grads = expected("omniopd", student, frozen, alone)[1]
        norm = sum(float(g.square().sum()) for g in grads) ** 0.5
        assert metrics[f"train/{term}_grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_a_second_backward_pass_is_taken_for_norms_alone(monkeypatch):
    passes = []
    backward = One.backward

    def counted(self, *args):
        passes.append(args)
        return backward(self, *args)

    monkeypatch.setattr(One, "backward", counted)
    student, frozen, found = naive.tiny(1), frozen_for("omniopd"), examples("omniopd")
    one = dataclasses.replace(step("omniopd", size=5), norms=False)
    gradients(student, frozen, found, one)
    assert len(passes) == 1
    gradients(student, frozen, found, dataclasses.replace(one, norms=True))
    assert len(passes) == 3


@pytest.mark.parametrize("objective", ["omniopd", "opd-sampled"])
def test_ratio_correction_equals_naive_float64(objective):
    student, frozen = naive.tiny(1), frozen_for(objective)
    found = examples(objective)
    sums, metrics = gradients(student, frozen, found, step(objective, correct=True))
    loss, grads = expected(objective, student, frozen, found, correct=True)
    plain = expected(objective, student, frozen, found)[1]
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    close(sums.grads, grads)
    assert max(float((a - b).abs().max()) for a, b in zip(grads, plain, strict=True)) > 1e-3


@pytest.mark.parametrize("how", [{"micro_batch_size": 1}, {"batch_tokens": 24}])
@pytest.mark.parametrize("objective", list(TERMS))
def test_gradient_does_not_depend_on_the_micro_batch_split(objective, how):
    student, frozen = naive.tiny(1), frozen_for(objective)
    found, whole_step = examples(objective), step(objective, size=5)
    whole, _ = gradients(student, frozen, found, whole_step)
    split, _ = gradients(student, frozen, found, dataclasses.replace(whole_step, **how))
    close(whole.signal_grads, [g.double() for g in split.signal_grads])
    close(whole.grads, [g.double() for g in split.grads])


@pytest.mark.parametrize("objective", list(TERMS))
def test_slices_over_tokens_change_nothing(monkeypatch, objective):
    student, frozen = naive.tiny(1), frozen_for(objective)
    whole, before = gradients(student, frozen, examples(objective), step(objective))
    monkeypatch.setattr(
        "pipeline.training.gradients.LOGITS_PER_CHUNK", 3 * len(student.unused_vocab_mask)
    )
    sliced, after = gradients(student, frozen, examples(objective), step(objective))
    assert after["train/loss"] == pytest.approx(before["train/loss"], rel=1e-6)
    close(whole.signal_grads, [g.double() for g in sliced.signal_grads])
    close(whole.grads, [g.double() for g in sliced.grads])


def test_nothing_is_learned_where_both_masks_are_empty():
    (example,) = examples("omniopd")[:1]
    (only,) = example.sequences
    off = np.zeros(len(only.token_ids), bool)
    silent = Example([only._replace(signal_T=off, anchor_T=off)])
    sums, metrics = gradients(naive.tiny(1), Frozen(naive.tiny(2)), [silent], step("omniopd"))
    assert metrics["train/loss"] == 0
    assert all(not g.any() for g in [*sums.signal_grads, *sums.grads])


def test_the_anchor_vanishes_at_the_reference_itself():
    _, metrics = gradients(
        naive.tiny(1), Frozen(naive.tiny(1)), examples("omniopd"), step("omniopd")
    )
    assert metrics["train/anchor"] == pytest.approx(0, abs=1e-6)
    assert metrics["train/anchor_grad_norm"] == pytest.approx(0, abs=1e-5)
    assert metrics["train/signal_grad_norm"] > 0.01


def test_a_step_on_pi_hat_1_raises_the_chunk_and_on_0_leaves_it():
    student = naive.tiny(1)
    ids = [4, 5, 6, 7]
    item = Sequence(
        [3, 2],
        ids,
        np.ones(4, bool),
        np.ones(4, np.float32),
        np.zeros(4, bool),
        np.zeros(4, np.float32),
    )
    before = naive.logps(student.model, item.context_ids, ids, 18).gather(
        1, torch.tensor(ids)[:, None]
    )
    for weight, rises in ((0.0, False), (1.0, True)):
        student = naive.tiny(1)
        weighted = item._replace(weight_T=np.full(4, weight, np.float32))
        sums, _ = gradients(student, Frozen(), [Example([weighted])], step("sft"))
        Optimizer(student.model, 1e-3, (0.9, 0.98), 0, 1.0).step(sums.grads)
        after = naive.logps(student.model, item.context_ids, ids, 18).gather(
            1, torch.tensor(ids)[:, None]
        )
        assert bool(after.sum() > before.sum() + 1e-4) is rises


def test_replacing_pi_hat_changes_the_gradient():
    found = examples("omniopd")
    halved = [Example([s._replace(weight_T=s.weight_T / 2) for s in e.sequences]) for e in found]
    student, frozen = naive.tiny(1), Frozen(naive.tiny(2))
    one, _ = gradients(student, frozen, found, step("omniopd"))
    two, _ = gradients(student, frozen, halved, step("omniopd"))
    close([g / 2 for g in one.signal_grads], [g.double() for g in two.signal_grads])
    assert any(bool(g.abs().max() > 1e-3) for g in one.signal_grads)


def test_drift_is_zero_for_the_policy_that_wrote_the_tokens_and_positive_otherwise():
    student = naive.tiny(1)
    (example,) = examples("opd")[:1]
    (item,) = example.sequences
    with torch.no_grad():
        logp_TV = naive.logps(student.model, item.context_ids, item.token_ids, 18)
    own = logp_TV.gather(1, torch.tensor(item.token_ids)[:, None])[:, 0].numpy()
    same = Example([item._replace(old_logp_T=own)])
    frozen = Frozen(teacher=naive.tiny(2))
    assert gradients(student, frozen, [same], step("opd"))[1]["train/drift"] == pytest.approx(
        0, abs=1e-9
    )
    assert gradients(student, frozen, [example], step("opd"))[1]["train/drift"] > 0.01


def test_grpo_advantages_are_hand_computed_and_equal_groups_give_zero():
    rewards = np.array([1.0, 0.0, 1.0, 1.0])
    found = grpo.advantages(["a", "a", "b", "b"], rewards)
    sd = np.sqrt(0.5)  # of 1 and 0, with n - 1
    assert found == pytest.approx([0.5 / (sd + 1e-4), -0.5 / (sd + 1e-4), 0, 0])


def test_every_example_is_visited_once_an_epoch_in_an_order_of_its_seed():
    first = [i for batch in order(10, 4, 2, 1, "train") for i in batch]
    assert sorted(first[:10]) == list(range(10))
    assert sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert first == [i for batch in order(10, 4, 2, 1, "train") for i in batch]
    assert first != [i for batch in order(10, 4, 2, 2, "train") for i in batch]


def test_carried_moments_continue_as_if_never_saved(tmp_path):
    def steps(model, optimizer, count):
        for number in range(count):
            torch.manual_seed(number)
            optimizer.step([torch.randn_like(p) for p in model.parameters()])

    straight, broken = naive.tiny(1).model, naive.tiny(1).model
    steps(straight, first := Optimizer(straight, 1e-2, (0.9, 0.98), 5, 1.0), 2)
    steps(straight, first, 2)
    steps(broken, second := Optimizer(broken, 1e-2, (0.9, 0.98), 5, 1.0), 2)
    second.save(tmp_path / "optimizer.safetensors", keep_weights=False)
    third = Optimizer(broken, 1e-2, (0.9, 0.98), 5, 1.0)
    third.load(tmp_path / "optimizer.safetensors")
    steps(broken, third, 2)
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = Optimizer(broken, 1e-2, (0.9, 0.98), 5, 1.0)
    assert (third.steps, fresh.steps) == (4, 0)


@pytest.mark.parametrize("carry", [True, False])
def test_float32_weights_survive_the_rounds_of_a_coarser_checkpoint(tmp_path, carry):
    first = naive.tiny(1)
    hf.save(first.model, first.tokenizer, tmp_path / "first", torch.bfloat16)
    student = students.student(tmp_path / "first", None, 0, "cpu")
    optimizer = Optimizer(student.model, 1e-5, (0.9, 0.98), 0, 1.0)
    walk(student.model, optimizer, range(2))  # so small that bfloat16 hardly sees it
    students.keep(student, tmp_path / "first", tmp_path / "second")
    path = tmp_path / "optimizer.safetensors"
    students.keep_moments(student, tmp_path / "second", optimizer, path, carry)
    later = students.student(tmp_path / "second", None, 0, "cpu")
    pairs = [*zip(student.model.parameters(), later.model.parameters(), strict=True)]
    assert not all(torch.equal(a, b) for a, b in pairs)
    again = Optimizer(later.model, 1e-5, (0.9, 0.98), 0, 1.0)
    again.load(path, moments=carry)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.steps == (2 if carry else 0)
    assert bool(again.adam.state) is carry


def blocked(bits):
    """A weight that is large enough for blocks of 8-bit moments, and a small one."""
    torch.manual_seed(0)
    model = torch.nn.Linear(128, 64)
    return model, Optimizer(model, 1e-2, (0.9, 0.98), 0, 100.0, bits)


def walk(model, optimizer, numbers):
    for number in numbers:
        torch.manual_seed(number)
        optimizer.step([torch.randn_like(p) for p in model.parameters()])


def test_8_bit_moments_are_small_carried_and_lead_where_32_bit_ones_do(tmp_path):
    pytest.importorskip("bitsandbytes")
    straight, first = blocked(8)
    walk(straight, first, range(4))
    broken, second = blocked(8)
    walk(broken, second, range(2))
    second.save(tmp_path / "optimizer.safetensors", keep_weights=False)
    third = Optimizer(broken, 1e-2, (0.9, 0.98), 0, 100.0, 8)
    third.load(tmp_path / "optimizer.safetensors")
    walk(broken, third, range(2, 4))
    for a, b in zip(straight.parameters(), broken.parameters(), strict=True):
        assert torch.equal(a, b)
    exact, plain = blocked(None)
    before = exact.weight.detach().clone()
    walk(exact, plain, range(4))
    moved, off = exact.weight - before, straight.weight - exact.weight
    assert 0 < float(off.norm()) < 0.1 * float(moved.norm())
    plain.save(tmp_path / "plain.safetensors", keep_weights=False)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("optimizer", "plain")]
    assert sizes[0] < sizes[1] / 3
    with pytest.raises(UserError, match="lacks moments of weight"):
        blocked(8)[1].load(tmp_path / "plain.safetensors")


def test_8_bit_moments_without_their_package_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(UserError, match=r"needs bitsandbytes.*pip install"):
        blocked(8)


def test_clipping_is_reported_and_bounds_the_norm():
    model = naive.tiny(1).model
    optimizer = Optimizer(model, 1e-2, (0.9, 0.98), 4, 1.0)
    found = optimizer.step([torch.ones_like(p) for p in model.parameters()])
    count = sum(p.numel() for p in model.parameters())
    assert found["train/grad_norm"] == pytest.approx(count**0.5, rel=1e-5)
    assert found["train/clipped"] == 1.0
    assert found["train/lr"] == pytest.approx(1e-2 / 4)
    small = optimizer.step([torch.full_like(p, 1e-4) for p in model.parameters()])
    assert small["train/clipped"] == 0.0


def test_gkd_at_its_ends_is_the_forward_and_the_reverse_kl():
    student, teacher = naive.tiny(1), naive.tiny(3)
    found = examples("opd")
    frozen = Frozen(teacher=teacher)
    reverse = gradients(student, frozen, found, step("opd"))[0]
    end = gradients(student, frozen, found, step("gkd1.0"))[0]
    close(end.signal_grads, [g.double() for g in reverse.signal_grads])
    # the forward KL to the teacher is what the anchor is to the reference
    swapped = [
        Example([s._replace(signal_T=s.anchor_T, anchor_T=s.signal_T) for s in e.sequences])
        for e in found
    ]
    anchored = Step(terms("omniopd"), 1.0, False, 3)
    forward = gradients(student, Frozen(reference=teacher), swapped, anchored)[0]
    start = gradients(student, frozen, found, step("gkd0.0"))[0]
    pairs = zip(forward.grads, forward.signal_grads, strict=True)
    anchor = [(whole - signal).double() for whole, signal in pairs]
    close(start.signal_grads, anchor)


def test_the_sampled_estimate_averages_to_the_full_reverse_kl():
    student, teacher = naive.tiny(1), naive.tiny(3)
    context = [3, 2, 5]
    with torch.no_grad():
        share_V = naive.logps(student.model, context, [4], 18)[0].exp()
    one = Sequence(
        context, [4], np.ones(1, bool), np.ones(1, np.float32), np.zeros(1, bool), np.zeros(1)
    )
    frozen = Frozen(teacher=teacher)
    whole, loss = gradients(student, frozen, [Example([one])], step("opd"))
    mean = [torch.zeros_like(g) for g in whole.signal_grads]
    value = 0.0
    for token, share in enumerate(share_V.tolist()):
        sums, found = gradients(
            student, frozen, [Example([one._replace(token_ids=[token])])], step("opd-sampled")
        )
        value += share * found["train/loss"]
        for total, grad in zip(mean, sums.signal_grads, strict=True):
            total += share * grad
    assert value == pytest.approx(loss["train/loss"], abs=1e-5)
    close(mean, [g.double() for g in whole.signal_grads])


def test_anchor_all_adds_the_anchor_to_the_chunks_and_moves_no_signal():
    student, frozen = naive.tiny(1), Frozen(naive.tiny(2))
    found = examples("omniopd")
    before, _ = gradients(student, frozen, found, step("omniopd"))
    after, _ = gradients(student, frozen, everywhere(found), step("omniopd"))
    tokens = sum(len(s.token_ids) for e in found for s in e.sequences)
    assert (before.anchor_tokens < tokens, after.anchor_tokens) == (True, tokens)
    close(before.signal_grads, [g.double() for g in after.signal_grads])


def rollouts(rows):
    """Responses of six tokens: (rollout_id, prompt_id, reward, finish_reason)."""
    return pa.Table.from_pylist(
        [
            {
                "rollout_id": name,
                "prompt_id": prompt,
                "prompt_token_ids": [1],
                "token_ids": [4] * 6,
                "logprobs": [-0.5] * 6,
                "reward": reward,
                "finish_reason": reason,
            }
            for name, prompt, reward, reason in rows
        ]
    )


def test_baselines_take_the_mean_of_the_round_or_of_the_prompt_off():
    table = rollouts([(name, name[0], 1.0, "stop") for name in ("a1", "a2", "b1")])
    targets = pa.table(
        {
            "rollout_id": ["a1", "a1", "a2", "b1"],
            "position": [0, 3, 0, 0],
            "length": [2, 2, 2, 2],
            "weight": [0.1, 0.3, 0.8, 0.8],
        }
    )

    def weights(baseline):
        found = omniopd.examples(table, targets, baseline)
        kept = [s.weight_T[s.signal_T][::2] for e in found for s in e.sequences]
        return np.concatenate(kept)

    assert weights("none") == pytest.approx([0.1, 0.3, 0.8, 0.8])
    assert weights("batch") == pytest.approx([-0.4, -0.2, 0.3, 0.3])
    assert weights("prompt") == pytest.approx([-0.3, -0.1, 0.4, 0.0], abs=1e-6)


def test_rft_keeps_right_answers_that_ended_and_counts_the_rest():
    rows = [("a", "p", 1.0, "stop"), ("b", "p", 0.0, "stop"), ("c", "p", 1.0, "length")]
    found, left_out = rft.examples(rollouts(rows))
    assert (len(found), left_out) == (1, 2)
    assert found[0].sequences[0].weight_T.tolist() == [1.0] * 6
