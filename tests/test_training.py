import numpy as np
import pytest
import torch

from pipeline.objectives import Example, Sequence, grpo, imitate_forks, omniopd, opd, sft
from pipeline.optimizer import Optimizer
from pipeline.training import Step, gradients, order
from tests import naive

TERMS = {
    "omniopd": omniopd.terms,
    "opd": opd.terms,
    "sft": sft.terms,
    "imitate-forks": imitate_forks.terms,
    "grpo": grpo.terms,
}
BETA = 0.3


def sequence(draw, objective, length):
    """Random tokens with masks as the objective makes them; old logps as a drifted policy's."""
    signal = np.ones(length, bool)
    weight = np.ones(length, np.float32)
    old = np.log(draw.uniform(0.05, 0.9, length)).astype(np.float32)
    anchor = np.zeros(length, bool)
    if objective in ("omniopd", "imitate-forks"):
        signal = draw.random(length) < 0.5
        weight = draw.random(length).astype(np.float32)
        anchor = ~signal
    if objective == "grpo":
        weight[:] = draw.normal()
    if objective == "sft":
        old = None
    ids = draw.integers(2, 18, length).tolist()
    return Sequence(draw.integers(2, 18, 5).tolist(), ids, signal, weight, anchor, old)


def examples(objective, seed=0):
    draw = np.random.default_rng(seed)
    lengths = [7, 12, 1, 9, 5]
    return [Example([sequence(draw, objective, length)]) for length in lengths]


def step(objective, size=3, token_mean=False, correct=False):
    beta = BETA if objective in ("omniopd", "imitate-forks") else 0.0
    return Step(TERMS[objective], beta, token_mean, correct, size)


def expected(objective, student, other, found, token_mean=False, correct=False):
    """Loss and gradient by plain float64 autograd."""
    model, frozen = naive.double(student), naive.double(other) if other else None
    vocabulary = len(student.tokenizer)
    signal = anchor = torch.zeros((), dtype=torch.float64)
    for example in found:
        for item in example.sequences:
            s, a = naive.signal_and_anchor(objective, model, frozen, item, vocabulary, correct)
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


def other_for(objective):
    return None if objective in ("sft", "grpo") else naive.tiny(2)


@pytest.mark.parametrize("token_mean", [False, True])
@pytest.mark.parametrize("objective", list(TERMS))
def test_loss_and_gradient_equal_naive_float64(objective, token_mean):
    student, other = naive.tiny(1), other_for(objective)
    found = examples(objective)
    sums, metrics = gradients(student, other, found, step(objective, token_mean=token_mean))
    loss, grads = expected(objective, student, other, found, token_mean)
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    close([s + a for s, a in zip(sums.signal_grads, sums.anchor_grads, strict=True)], grads)
    assert max(float(g.abs().max()) for g in grads) > 1e-3  # there is something to compare


def test_ratio_correction_equals_naive_float64():
    student, other = naive.tiny(1), naive.tiny(2)
    found = examples("omniopd")
    sums, metrics = gradients(student, other, found, step("omniopd", correct=True))
    loss, grads = expected("omniopd", student, other, found, correct=True)
    plain = expected("omniopd", student, other, found)[0]
    assert metrics["train/loss"] == pytest.approx(loss, abs=1e-5)
    assert abs(loss - plain) > 1e-3
    close([s + a for s, a in zip(sums.signal_grads, sums.anchor_grads, strict=True)], grads)


@pytest.mark.parametrize("objective", list(TERMS))
def test_gradient_does_not_depend_on_the_micro_batch_split(objective):
    student, other = naive.tiny(1), other_for(objective)
    whole, _ = gradients(student, other, examples(objective), step(objective, size=5))
    split, _ = gradients(student, other, examples(objective), step(objective, size=1))
    close(whole.signal_grads, [g.double() for g in split.signal_grads])
    close(whole.anchor_grads, [g.double() for g in split.anchor_grads])


def test_slices_over_tokens_change_nothing(monkeypatch):
    student, other = naive.tiny(1), naive.tiny(2)
    whole, before = gradients(student, other, examples("omniopd"), step("omniopd"))
    monkeypatch.setattr("pipeline.training.SLICE", 3 * len(student.silent_V))
    sliced, after = gradients(student, other, examples("omniopd"), step("omniopd"))
    assert after["train/loss"] == pytest.approx(before["train/loss"], rel=1e-6)
    close(whole.signal_grads, [g.double() for g in sliced.signal_grads])
    close(whole.anchor_grads, [g.double() for g in sliced.anchor_grads])


def test_nothing_is_learned_where_both_masks_are_empty():
    (example,) = examples("omniopd")[:1]
    (only,) = example.sequences
    off = np.zeros(len(only.token_ids), bool)
    silent = Example([only._replace(signal_T=off, anchor_T=off)])
    sums, metrics = gradients(naive.tiny(1), naive.tiny(2), [silent], step("omniopd"))
    assert metrics["train/loss"] == 0
    assert all(not g.any() for g in [*sums.signal_grads, *sums.anchor_grads])


def test_the_anchor_vanishes_at_the_reference_itself():
    _, metrics = gradients(naive.tiny(1), naive.tiny(1), examples("omniopd"), step("omniopd"))
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
        sums, _ = gradients(student, None, [Example([weighted])], step("sft"))
        Optimizer(student.model, 1e-3, (0.9, 0.98), 0, 1.0).step(sums.signal_grads)
        after = naive.logps(student.model, item.context_ids, ids, 18).gather(
            1, torch.tensor(ids)[:, None]
        )
        assert bool(after.sum() > before.sum() + 1e-4) is rises


def test_replacing_pi_hat_changes_the_gradient():
    found = examples("omniopd")
    halved = [Example([s._replace(weight_T=s.weight_T / 2) for s in e.sequences]) for e in found]
    student, other = naive.tiny(1), naive.tiny(2)
    one, _ = gradients(student, other, found, step("omniopd"))
    two, _ = gradients(student, other, halved, step("omniopd"))
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
    other = naive.tiny(2)
    assert gradients(student, other, [same], step("opd"))[1]["train/drift"] == pytest.approx(
        0, abs=1e-9
    )
    assert gradients(student, other, [example], step("opd"))[1]["train/drift"] > 0.01


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
