"""Decoding with keys and values where they stand, against transformers' own cache and attention."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from pipeline.engines import hf, kv_cache
from pipeline.engines.sampling import Sampler
from tests import naive

NEW = 9
HEADS = {"one key for each query": 4, "two queries a key": 2, "four queries a key": 1}


def policy(heads, how):
    """A model whose 4 query heads share `heads` of keys; attention as `how` has it."""
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=20, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=heads, attn_implementation=how,
    )  # fmt: skip
    tiny = naive.tiny(1)
    return hf.Policy(LlamaForCausalLM(config).eval(), tiny.tokenizer, torch.arange(20) >= 18)


def logits(model, attention, room):
    """Logits of some tokens after padded prompts, one token at a time."""
    model.set_attn_implementation(attention)
    prompts = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    ids, mask = kv_cache.padded(prompts, "cpu")
    cache, found = DynamicCache(config=model.config), []
    with torch.inference_mode():
        model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        if room:
            kv_cache.with_room(cache, NEW)
        for step in range(NEW):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            out = model(
                input_ids=torch.tensor([[5 + step], [6], [7]]),
                attention_mask=mask,
                position_ids=torch.tensor([[5 + step], [2 + step], [3 + step]]),
                past_key_values=cache,
                use_cache=True,
            )
            found.append(out.logits[:, -1])
            if step == 4:  # rows leave, and the others change places
                cache.batch_select_indices(torch.tensor([2, 0, 1]))
                mask = mask[[2, 0, 1]]
    return torch.stack(found), cache


@pytest.mark.parametrize("heads", HEADS.values(), ids=list(HEADS))
def test_room_and_grouped_heads_change_no_logit(heads):
    model = policy(heads, "sdpa").model
    plain, _ = logits(model, "sdpa", room=False)
    ours, cache = logits(model, kv_cache.GROUPED, room=True)
    assert all(isinstance(layer, kv_cache.Room) for layer in cache.layers)
    assert torch.allclose(ours, plain, atol=1e-5)
    assert float(plain.std()) > 1e-3  # there is something to compare


def roomy(more):
    """Keys and values of two prompts, at most 3 tokens long, with room for `more` slots."""
    model = policy(2, "sdpa").model
    ids, mask = kv_cache.padded([[3, 4, 5], [6, 7]], "cpu")
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        kv_cache.with_room(cache, more)
    return cache


@torch.inference_mode()
def test_nothing_is_copied_as_tokens_come():
    cache, new = roomy(2), torch.ones(2, 2, 1, 8)
    places = [layer.keys.data_ptr() for layer in cache.layers]
    for _ in range(2):
        for index in range(len(cache.layers)):
            cache.update(new, new, index)
    assert [layer.keys.data_ptr() for layer in cache.layers] == places
    assert cache.get_seq_length() == 5


@torch.inference_mode()
def test_more_than_there_is_room_for_is_refused():
    cache, new = roomy(1), torch.ones(2, 2, 2, 8)
    with pytest.raises(RuntimeError):
        cache.update(new, new, 0)


def test_every_policy_attends_so_and_no_checkpoint_says_it(tmp_path):
    tiny = naive.tiny(1)
    hf.save(tiny.model, tiny.tokenizer, tmp_path / "checkpoint", torch.float32)
    loaded = hf.load(tmp_path / "checkpoint")
    assert loaded.model.config._attn_implementation == kv_cache.GROUPED
    hf.save(loaded.model, loaded.tokenizer, tmp_path / "again", torch.float32)
    texts = [(tmp_path / x / "config.json").read_text() for x in ("checkpoint", "again")]
    assert texts[0] == texts[1]
    assert kv_cache.GROUPED not in texts[0]


def test_a_response_that_is_generated_is_what_transformers_own_cache_gives(monkeypatch):
    draws = [np.random.default_rng(i).random(NEW) for i in range(6)]
    prompts = [[2 + i] * (1 + i % 3) for i in range(6)]
    found = {}
    for how in ("sdpa", kv_cache.GROUPED):
        if how == "sdpa":
            monkeypatch.setattr(kv_cache, "with_room", lambda cache, more: None)
        one = policy(2, "sdpa")
        one.model.set_attn_implementation(how)
        made = hf.generate(one, prompts, draws, Sampler(1.0), NEW, 10_000)
        found[how] = {i: x.token_ids for i, x in made}
        monkeypatch.undo()
    assert found["sdpa"] == found[kv_cache.GROUPED]


SMALL = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KV = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
KINDS = {  # of positions, of heads that share keys, of norms within attention
    "llama": LlamaConfig(**KV),
    "qwen3": Qwen3Config(**KV, head_dim=16),
    "qwen2": Qwen2Config(**KV),
    "gpt2": GPT2Config(vocab_size=20, n_embd=32, n_layer=2, n_head=4),
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=48),
}


def kind(config):
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config).eval()
    kv_cache.use(model)
    return hf.Policy(model, naive.tiny(1).tokenizer, torch.arange(20) >= 18)


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_rows_packed_behind_packed_texts_are_what_each_is_when_read_whole(name):
    own, texts = kind(KINDS[name]), [[3, 4, 5, 6, 7], [8], [10, 11, 12]]
    assert kv_cache.packs(own.model)
    assert kv_cache.Packing.of([5, 1, 3], None, "cpu").mask_B1TS is None
    rows, text_B = [[4], [5, 6, 7, 8], [9, 3], [6, 6, 5], [7, 7]], [1, 0, 2, 0, 2]
    cache, read_NH = kv_cache.packed(own, texts)
    front = kv_cache.Texts(cache, list(map(len, texts)), text_B)
    kept, behind_NH = kv_cache.packed(own, rows, front)
    assert [len(x) for layer in cache.layers for x in layer.states] == [5 + 1 + 3] * 4  # no padding
    assert not any(layer.states for layer in kept.layers)
    whole = [own.model.base_model(input_ids=torch.tensor([text]))[0][0] for text in texts]
    assert torch.allclose(read_NH, torch.cat(whole), atol=1e-5)
    assert float(read_NH.std()) > 0.1  # there is something to compare
    for row, t, found in zip(rows, text_B, behind_NH.split(list(map(len, rows))), strict=True):
        plain = own.model.base_model(input_ids=torch.tensor([texts[t] + row]))[0][0]
        assert torch.allclose(found, plain[len(texts[t]) :], atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**KV, attn_implementation="eager"),
        MistralConfig(**KV, sliding_window=4),
        Gemma3TextConfig(**KV, head_dim=16, sliding_window=4),
    ],
    ids=["its own attention", "a window", "some layers with a window"],
)
def test_where_attention_is_another_nothing_is_packed(config):
    assert not kv_cache.packs(kind(config).model)


def test_after_an_error_nothing_is_taken_for_packed():
    own = kind(KINDS["llama"])
    ids = {"input_ids": torch.tensor([[3, 4, 5]])}
    before = own.model(**ids).logits
    with pytest.raises(IndexError):
        kv_cache.packed(own, [[3, 4], [99]])
    assert torch.equal(own.model(**ids).logits, before)
