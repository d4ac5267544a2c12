from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.engines.asks import Ask, Draw
from pipeline.engines.hf import Policy, generate, load, save
from pipeline.engines.prefix_sharing import branches
from pipeline.engines.sampling import GREEDY, Sampler, Watch, sample
from pipeline.engines.scoring_pass import exact, logps_and_entropies
from tests import naive

VOCABULARY = 18


def uniforms(count, length, seed=0):
    return [np.random.default_rng([seed, row]).random(length) for row in range(count)]


def naive_sample(policy, prompt, draws, temperature=1.0):
    """One token at a time, the whole text read again each time, alone."""
    tokens = []
    for u in draws:
        logits = policy.model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1]
        probs = torch.softmax(logits[:VOCABULARY].double() / temperature, -1).detach().numpy()
        tokens.append(int(np.searchsorted(np.cumsum(probs), u * probs.sum(), side="right")))
        if tokens[-1] == policy.ends[0]:
            break
    return tokens


def test_batched_cached_sampling_equals_one_row_at_a_time():
    policy = naive.tiny(1)
    prompts = [[2, 3], [4, 5, 6, 7], [8], [9, 10, 11]]
    found = dict(generate(policy, prompts, uniforms(4, 12), Sampler(1.0), 12, 10_000))
    for i, prompt in enumerate(prompts):
        tokens = naive_sample(policy, prompt, uniforms(4, 12)[i])
        assert found[i].token_ids == tokens
        assert found[i].finish_reason == ("stop" if tokens[-1] == policy.ends[0] else "length")
    assert {f.finish_reason for f in found.values()} == {"stop", "length"} or len(found) == 4


def test_rows_that_end_leave_the_batch_without_touching_the_others():
    policy = naive.tiny(1)
    with torch.no_grad():  # make EOS likely, so that rows end at many places
        policy.model.get_output_embeddings().weight[policy.ends[0]] *= 3
    prompts = [[2 + i % 16, 5] for i in range(24)]
    draws = uniforms(24, 30, seed=3)
    found = dict(generate(policy, prompts, draws, Sampler(1.3), 30, 10_000))
    lengths = {len(f.token_ids) for f in found.values()}
    assert len(lengths) > 4
    for i in range(0, 24, 5):
        assert found[i].token_ids == naive_sample(policy, prompts[i], draws[i], 1.3)
    assert all(
        (f.token_ids[-1] == policy.ends[0]) == (f.finish_reason == "stop") for f in found.values()
    )


@pytest.mark.parametrize("batch_tokens", [10_000, 100, 1])
def test_who_watches_hears_of_each_row_once_as_it_ends_with_its_entropies(batch_tokens):
    policy = naive.tiny(1)
    with torch.no_grad():  # so that rows end at many places
        policy.model.get_output_embeddings().weight[policy.ends[0]] *= 3
    prompts = [[2 + i % 16, 5] for i in range(12)]
    heard = []
    told = Watch(lambda i, tokens, entropies: heard.append((i, list(tokens), list(entropies))))
    how = (policy, prompts, uniforms(12, 30, seed=3), Sampler(1.3), 30, batch_tokens)
    found = dict(generate(*how, watch=told))
    assert found == dict(generate(*how))
    assert sorted(i for i, _, _ in heard) == list(range(12))
    if batch_tokens == 10_000:  # one batch: the short ones are told of before the long ones
        lengths = [len(tokens) for _, tokens, _ in heard]
        assert lengths == sorted(lengths)
    responses = [found[i].token_ids for i in range(12)]
    values = {i: entropies for i, _, entropies in exact(policy, prompts, responses, 10_000)}
    for i, tokens, entropies in heard:
        assert tokens == responses[i]
        np.testing.assert_allclose(entropies, values[i], atol=1e-5)


def test_batches_do_not_change_a_row():
    policy = naive.tiny(1)
    prompts = [[2 + i] * (1 + i % 3) for i in range(9)]
    whole = dict(generate(policy, prompts, uniforms(9, 8), Sampler(1.0), 8, 10_000))
    split = dict(generate(policy, prompts, uniforms(9, 8), Sampler(1.0), 8, 20))
    assert {i: f.token_ids for i, f in whole.items()} == {i: f.token_ids for i, f in split.items()}


@pytest.mark.parametrize(
    "texts", [[[2, 3], [4, 5, 6, 7], [8, 9, 10]], [[2, 3, 4]]], ids=["several", "one"]
)
def test_a_prompt_of_several_samples_is_read_once(texts, monkeypatch):
    policy, samples = naive.tiny(1), 4
    prompts = [text for text in texts for _ in range(samples)]
    read, forward = [], policy.model.base_model.forward

    def counting(input_ids, **others):
        read.append(int(others["attention_mask"].sum()) if input_ids.shape[1] > 1 else 0)
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(policy.model.base_model, "forward", counting)
    draws = uniforms(len(prompts), 12)
    found = dict(generate(policy, prompts, draws, Sampler(1.0), 12, 10_000))
    assert sum(read) == sum(map(len, texts)) * (2 if len(texts) == 1 else 1)  # never one row alone
    monkeypatch.undo()
    for i, prompt in enumerate(prompts):
        assert found[i].token_ids == naive_sample(policy, prompt, draws[i])


def test_ids_that_the_tokenizer_cannot_emit_are_never_drawn():
    logits = naive.tiny(1).head(torch.randn(4, 16))
    assert (logits[:, VOCABULARY:] < -1e38).all()
    drawn = sample(logits, torch.full((4,), 1 - 1e-9), Sampler(5.0))
    assert (drawn < VOCABULARY).all()


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(30_000, 3)
    draws = torch.from_numpy(np.random.default_rng(0).random(30_000))
    shares = np.bincount(sample(logits, draws, Sampler(0.7)).numpy(), minlength=3) / 30_000
    expected = torch.softmax(logits[0] / 0.7, -1).numpy()
    assert shares == pytest.approx(expected, abs=0.01)


def test_top_k_and_top_p_keep_what_their_definitions_say():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().expand(1000, 4)
    draws = torch.linspace(0, 0.9999, 1000)
    assert set(sample(logits, draws, Sampler(1.0, top_k=2)).tolist()) == {1, 3}
    assert set(sample(logits, draws, Sampler(1.0, top_p=0.5)).tolist()) == {1, 3}
    assert set(sample(logits, draws, Sampler(1.0, top_p=0.39)).tolist()) == {1}
    assert set(sample(logits, draws, GREEDY).tolist()) == {1}


def test_exact_pass_equals_naive_float64():
    policy = naive.tiny(1)
    prompts, responses = [[2, 3], [4, 5, 6], [7]], [[8, 9, 1], [10], [3, 4, 5, 6, 7, 8]]
    for i, logps, entropies in exact(policy, prompts, responses, 12):
        logp_TV = naive.logps(naive.double(policy), prompts[i], responses[i], VOCABULARY)
        own = logp_TV.gather(1, torch.tensor(responses[i])[:, None])[:, 0]
        assert logps == pytest.approx(own.detach().numpy(), abs=1e-5)
        entropy = -(logp_TV.exp() * logp_TV).sum(-1)
        assert entropies == pytest.approx(entropy.detach().numpy(), abs=1e-5)


def same_as_naive(policy, prompts, responses, found):
    assert sorted(i for i, _, _ in found) == list(range(len(prompts)))
    for i, logps, entropies in found:
        assert len(logps) == len(entropies) == len(responses[i])
        if not responses[i]:
            continue
        logp_TV = naive.logps(naive.double(policy), prompts[i], responses[i], VOCABULARY)
        own = logp_TV.gather(1, torch.tensor(responses[i])[:, None])[:, 0]
        assert logps == pytest.approx(own.detach().numpy(), abs=1e-5)
        entropy = -(logp_TV.exp() * logp_TV).sum(-1)
        assert entropies == pytest.approx(entropy.detach().numpy(), abs=1e-5)


def several():
    """Responses of one token, of none and of many, of prompts that are not side by side."""
    draw = np.random.default_rng(3)
    own = [draw.integers(2, VOCABULARY, n).tolist() for n in (4, 1, 9, 4, 6)]
    prompts = [own[i % 5] for i in range(23)]
    responses = [draw.integers(2, VOCABULARY, n % 8).tolist() for n in range(23)]
    return prompts, responses


def read_tokens(policy, monkeypatch):
    """Rows and slots of each forward pass from now on."""
    shapes, forward = [], policy.model.base_model.forward

    def noted(*args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(policy.model.base_model, "forward", noted)
    return shapes


@pytest.mark.parametrize("batch_tokens", [1, 20, 60, 10_000])
def test_prompts_that_several_responses_share_change_no_value(batch_tokens):
    policy, (prompts, responses) = naive.tiny(1), several()
    same_as_naive(policy, prompts, responses, list(exact(policy, prompts, responses, batch_tokens)))


def test_a_prompt_is_read_once_for_all_its_responses(monkeypatch):
    policy, (prompts, responses) = naive.tiny(1), several()
    shapes = read_tokens(policy, monkeypatch)
    list(exact(policy, prompts, responses, 10_000))
    rest = sum(max(len(response) - 1, 0) for response in responses)  # all but each row's last
    assert shapes == [(1, 4 + 1 + 9 + 4 + 6), (1, rest)]  # five prompts, no padding


def test_a_pass_on_a_cpu_holds_no_more_than_stays_in_its_cache(monkeypatch):
    policy, (prompts, responses) = naive.tiny(1), several()
    wide = policy.model.get_output_embeddings().weight.shape[1]
    monkeypatch.setattr("pipeline.engines.scoring_pass.CPU_HIDDEN", 12 * wide)
    shapes = read_tokens(policy, monkeypatch)
    same_as_naive(policy, prompts, responses, list(exact(policy, prompts, responses, 10_000)))
    assert len(shapes) > 4
    assert max(rows * slots for rows, slots in shapes) <= 12


def test_where_a_layer_looks_a_number_of_slots_back_each_row_is_read_whole(monkeypatch):
    policy, (prompts, responses) = naive.tiny(1), several()
    plain = {i: x for i, x, _ in exact(policy, prompts, responses, 60)}
    policy.model.config.sliding_window = 4  # of the cache; the layers still see everything
    policy.model.config.layer_types = ["sliding_attention"] * policy.model.config.num_hidden_layers
    shapes = read_tokens(policy, monkeypatch)
    found = {i: x for i, x, _ in exact(policy, prompts, responses, 60)}
    assert max(slots for _, slots in shapes) == 9 + 7
    for i, logps in plain.items():
        assert found[i] == pytest.approx(logps, abs=1e-5)


def test_prompts_whose_hash_is_equal_are_told_apart(monkeypatch):
    policy, (prompts, responses) = naive.tiny(1), several()

    class Same:
        def __init__(self, *_args, **_kwargs):
            pass

        def digest(self):
            return bytes(8)

    monkeypatch.setattr("pipeline.engines.scoring_pass.hashlib.blake2b", Same)
    same_as_naive(policy, prompts, responses, list(exact(policy, prompts, responses, 60)))


def test_what_is_left_out_as_done_changes_no_bit_of_the_rest():
    policy, (prompts, responses) = naive.tiny(1), several()
    whole = {i: (a, b) for i, a, b in exact(policy, prompts, responses, 40)}
    rest = list(exact(policy, prompts, responses, 40, done=set(range(0, 23, 2)) | {3, 5, 7}))
    assert 0 < len(rest) < 23
    for i, logps, entropies in rest:
        assert np.array_equal(logps, whole[i][0])
        assert np.array_equal(entropies, whole[i][1])


def test_the_exact_pass_in_slices_is_the_same(monkeypatch):
    policy = naive.tiny(1)
    prompts, responses = [[2, 3], [4, 5, 6]], [[8, 9, 1], [10, 11, 12, 13]]
    whole = {i: (a, b) for i, a, b in exact(policy, prompts, responses, 100)}
    monkeypatch.setattr(
        "pipeline.engines.scoring_pass.LOGITS_PER_CHUNK", 2 * len(policy.unused_vocab_mask)
    )
    for i, logps, entropies in exact(policy, prompts, responses, 100):
        assert logps == pytest.approx(whole[i][0], abs=1e-6)
        assert entropies == pytest.approx(whole[i][1], abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary_in_many_slices_equals_naive_float64(dtype, monkeypatch):
    """From confident tokens to nearly uniform ones; a bfloat16 checkpoint is what its hidden
    states say, so these are compared with the float64 head on the same ones."""
    torch.manual_seed(2)
    hidden_TH, weight_VH = torch.randn(90, 24), torch.randn(152_000, 24)
    hidden_TH *= torch.logspace(-1.5, 0.6, 90)[:, None]  # of logits: 0.15 to 20 wide
    policy = wide(weight_VH.to(dtype), unused=700)
    monkeypatch.setattr("pipeline.engines.scoring_pass.LOGITS_PER_CHUNK", 7 * 152_000)
    tokens_T = torch.randint(0, 151_300, (90,))
    hidden_TH = hidden_TH.to(dtype)
    logps, entropies = logps_and_entropies(policy, hidden_TH, tokens_T)
    for t in range(90):
        logits_V = weight_VH.to(dtype).double()[:151_300] @ hidden_TH[t].double()
        logp_V = torch.log_softmax(logits_V, -1)
        assert logps[t] == pytest.approx(float(logp_V[tokens_T[t]]), abs=1e-4)
        assert entropies[t] == pytest.approx(float(-(logp_V.exp() * logp_V).sum()), abs=1e-4)
    assert entropies.min() < 1 < 11.8 < entropies.max()  # nats; ln 151,300 is 11.93


def wide(weight_VH, unused):
    """A policy that is only a head, whose last `unused` rows stand for no token."""
    unused_vocab_mask = torch.arange(len(weight_VH)) >= len(weight_VH) - unused
    model = SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=weight_VH))
    return Policy(model, None, unused_vocab_mask)


def test_the_exact_pass_of_a_bfloat16_checkpoint_read_in_float32_equals_naive_float64(tmp_path):
    policy = naive.tiny(1)
    save(policy.model, policy.tokenizer, tmp_path / "checkpoint", torch.bfloat16)
    read = load(tmp_path / "checkpoint", dtype=torch.float32)
    prompts, responses = [[2, 3], [4, 5, 6], [7]], [[8, 9, 1], [10], [3, 4, 5, 6, 7, 8]]
    for i, logps, entropies in exact(read, prompts, responses, 12):
        logp_TV = naive.logps(naive.double(read), prompts[i], responses[i], VOCABULARY)
        own = logp_TV.gather(1, torch.tensor(responses[i])[:, None])[:, 0]
        assert logps == pytest.approx(own.detach().numpy(), abs=1e-4)
        entropy = -(logp_TV.exp() * logp_TV).sum(-1)
        assert entropies == pytest.approx(entropy.detach().numpy(), abs=1e-4)


def asks():
    long, other = [2, 3, 4, 5, 6, 7, 8], [9, 10]
    draws = [Draw(p, s, 100 * p + s) for p in (3, 5, 7) for s in range(4)]
    retokenised = [2, 3, 11]  # what another tokenizer may make of a prefix: begins no longer one
    return [
        Ask({3: (*long[:3],), 5: (*long[:5],), 7: (*long,)}, draws),
        Ask({2: (*other,)}, [Draw(2, s, 900 + s) for s in range(3)]),
        Ask({4: (2, 3, 4, 5), 3: (*retokenised,)}, [Draw(4, 0, 7), Draw(3, 0, 8)]),
    ]


@pytest.mark.parametrize("batch_tokens", [10_000, 40])
def test_branches_from_one_reading_equal_sampling_each_alone(batch_tokens):
    policy = naive.tiny(1)
    for ask, found in zip(asks(), branches(policy, asks(), 1.0, 6, batch_tokens), strict=True):
        for draw, generated in zip(ask.draws, found, strict=True):
            draws = np.random.default_rng(draw.seed).random(6)
            assert generated.token_ids == naive_sample(
                policy, list(ask.prompts[draw.position]), draws
            )


def test_a_response_is_read_once_for_all_its_forks(monkeypatch):
    policy, read = naive.tiny(1), []
    from pipeline.engines import prefix_sharing as module

    monkeypatch.setattr(
        module, "padded", lambda rows, device: read.append(rows) or naive_padded(rows, device)
    )
    list(branches(policy, asks()[:1], 1.0, 6, 10_000))
    assert [row for rows in read for row in dict.fromkeys(map(tuple, rows))] == [
        (2, 3, 4, 5, 6, 7, 8)
    ]


def naive_padded(rows, device):
    from pipeline.engines.kv_cache import padded

    return padded(rows, device)


def test_a_saved_checkpoint_loads_as_it_was(tmp_path):
    policy = naive.tiny(1)
    save(policy.model, policy.tokenizer, tmp_path / "checkpoint", torch.float32)
    loaded = load(tmp_path / "checkpoint")
    for a, b in zip(policy.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert loaded.prompt_ids([{"role": "user", "content": "1+2?"}]) == policy.tokenizer.encode(
        "1+2?"
    )


def test_a_missing_or_truncated_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a checkpoint, lacks"):
        load(tmp_path / "none")
    policy = naive.tiny(1)
    save(policy.model, policy.tokenizer, tmp_path / "checkpoint", torch.float32)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="not loadable"):
        load(tmp_path / "checkpoint")
