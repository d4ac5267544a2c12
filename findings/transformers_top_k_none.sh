#!/usr/bin/env bash
# Sampling is cut to the 50 likeliest tokens while the config says that top_k is None.
# Guess: with generation_config.top_k None, or with GenerationConfig(top_k=None) passed to generate,
# sampling at temperature 1 draws from the whole distribution.
# What happens: None means "not set", and generate fills it from the model's config and then with 50.
# A GenerationConfig of one's own cannot switch it off with None; the keyword generate(top_k=None) can,
# and so does 0 in either place.
# Version: transformers 5.19.0, torch 2.13.0.
# Why it matters: on-policy methods weigh a sample by its probability under the whole softmax. The
# rollouts here come from another distribution, and no printed setting says so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.19.0 torch==2.13.0 numpy==2.3.5
cd "$work"
export HF_HUB_OFFLINE=1
venv/bin/python - 2>log <<'PY' || { tail -n 20 log; exit 1; }
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=200, **size))


def left(**settings):
    """How many of the 200 tokens may be drawn."""
    out = model.generate(torch.tensor([[2, 3]]), **settings)
    return int(torch.isfinite(out.scores[0]).sum())


common = {"do_sample": True, "max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True}
print("transformers", transformers.__version__, "top_k of the model:", model.generation_config.top_k)
assert model.generation_config.top_k is None
found = {
    "do_sample=True": left(**common),
    "GenerationConfig(top_k=None)": left(generation_config=GenerationConfig(**common, top_k=None)),
    "generate(top_k=None)": left(**common, top_k=None),
    "GenerationConfig(top_k=0)": left(generation_config=GenerationConfig(**common, top_k=0)),
}
for name, count in found.items():
    print(f"{name}: {count} of 200 tokens")
assert list(found.values()) == [50, 50, 200, 200]
PY
