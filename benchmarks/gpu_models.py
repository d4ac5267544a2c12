"""Models of real shapes with random weights, and prompts and responses of random ids."""

from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
    vocabulary: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    loss_tokens: int
    prompts: int
    samples: int
    prompt_tokens: int
    new_tokens: int
    step_rows: int


CARD = Size(151_936, 2048, 6144, 8, 16, 8, 128, 8192, 16, 4, 128, 128, 8)
# a loss of so many tokens takes memory that the process did not have free before
SMALL = Size(512, 64, 128, 2, 4, 2, 16, 4096, 2, 2, 8, 12, 2)


def untrained(size: Size, device: str, seed: int, dtype: Any) -> Any:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        tie_word_embeddings=True,
        eos_token_id=size.vocabulary - 1,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.model.norm.weight.fill_(4.0)  # logits that differ, as a trained model's do
    return model.to(dtype).eval()


def policy(size: Size, device: str, seed: int = 0, dtype: str = "bfloat16") -> Any:
    import torch

    from pipeline.engines import kv_cache
    from pipeline.engines.hf import Policy

    model = untrained(size, device, seed, getattr(torch, dtype))
    kv_cache.use(model)
    tokenizer: Any = None  # nothing here has a text
    unused = torch.zeros(size.vocabulary, dtype=torch.bool, device=device)
    return Policy(model, tokenizer, unused)


def ids(size: Size, seed: int, count: int, length: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, size.vocabulary - 1, length).tolist() for _ in range(count)]


def shared(size: Size) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts, each as often as it has responses, and the responses."""
    prompts = ids(size, 1, size.prompts, size.prompt_tokens)
    every = [prompt for prompt in prompts for _ in range(size.samples)]
    return every, ids(size, 2, len(every), size.new_tokens)
