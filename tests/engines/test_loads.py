"""A checkpoint, whole or an adapter, in the tools of others: transformers, vLLM, the harness.

Each is asked what it says by itself, chat template included, and compared with this pipeline.
"""

import importlib.util
import json
import os
import subprocess

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pipeline.commands import lm_eval
from pipeline.config.method import Lora
from pipeline.engines import adapters, char_tokenizer
from pipeline.engines.hf import generate, load, save
from pipeline.engines.sampling import GREEDY
from pipeline.engines.scoring_pass import exact
from tests import small_engines
from tests.naive import ALPHABET, for_vllm

# says who speaks, opens the answer, and closes the thinking when it is switched off
TEMPLATE = (
    "{% for m in messages %}{{ '#' + m['content'] + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
    "{% if enable_thinking is defined and enable_thinking is false %},,{% endif %}"
)
ASKED = [[{"role": "user", "content": f"{i}+{3 * i}?"}] for i in range(1, 9)]
IN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
base, adapter, asked = json.loads(sys.argv[1])
llm = LLM(base, enable_lora=True, dtype="float32", enforce_eager=True,
          kv_cache_memory_bytes=1 << 28, enable_chunked_prefill=False)
greedy, off = SamplingParams(temperature=0, max_tokens=10), {"enable_thinking": False}
for lora in (None, LoRARequest("adapter", 1, adapter)):
    out = llm.chat(asked, greedy, use_tqdm=False, lora_request=lora, chat_template_kwargs=off)
    print("SAID" + json.dumps([[x.prompt_token_ids, list(x.outputs[0].token_ids)] for x in out]))
"""
TASK = """
task: own_letters
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
target_delimiter: ""
doc_to_choice: ["4", "5", "6", "7"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A whole checkpoint and an adapter on it, as the stages write them."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = char_tokenizer.tokenizer(ALPHABET)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(1)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = for_vllm(len(tokenizer), bos_token_id=None, **ids)
    save(LlamaForCausalLM(config), tokenizer, folder / "base", torch.float32)
    policy = load(folder / "base")
    adapters.add(policy.model, Lora(rank=2, alpha=8.0, targets="all-linear"), seed=3)
    torch.manual_seed(5)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.06)
    adapters.save(policy.model, policy.tokenizer, folder / "base", folder / "adapter")
    return folder / "base", folder / "adapter"


def own(folder):
    """Prompt and greedy answer to each of ASKED."""
    policy = load(folder)
    prompts = [policy.prompt_ids(messages) for messages in ASKED]
    found = dict(generate(policy, prompts, [np.zeros(10)] * len(prompts), GREEDY, 10, 9999))
    return [[prompt, found[i].token_ids] for i, prompt in enumerate(prompts)]


def test_in_transformers_and_peft(pair):
    from peft import AutoPeftModelForCausalLM

    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in pair]
    models = [AutoModelForCausalLM.from_pretrained(pair[0])]
    models.append(AutoPeftModelForCausalLM.from_pretrained(str(pair[1])))
    for folder, tokenizer, model in zip(pair, tokenizers, models, strict=True):
        for messages, (prompt, tokens) in zip(ASKED, own(folder), strict=True):
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
            )
            assert ids == prompt
            said = model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=10, do_sample=False
            )[0, len(ids) :]
            assert [t for t in said.tolist() if t != tokenizer.pad_token_id] == tokens
    assert own(pair[0]) != own(pair[1])


@pytest.mark.slow
@pytest.mark.services
def test_in_vllm(pair):
    asked = json.dumps([str(pair[0]), str(pair[1]), ASKED])
    off = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    off["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    done = subprocess.run(
        [small_engines.vllm_python(), "-c", IN_VLLM, asked],
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", **off},
        capture_output=True,
        text=True,
    )
    said = [json.loads(x[4:]) for x in done.stdout.splitlines() if x.startswith("SAID")]
    assert len(said) == 2, done.stderr[-3000:]
    assert said == [own(folder) for folder in pair]
    assert said[0] != said[1]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs the extra harness")
def test_in_the_harness(pair, tmp_path, monkeypatch):
    """With labels that the adapter finds most likely, it alone has every problem right."""
    rows = [{"question": m[0]["content"], "label": pick(pair[1], m)} for m in ASKED]
    assert len({row["label"] for row in rows}) > 1
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TASK.replace("ROWS", str(tmp_path / "rows.jsonl"))
    (tmp_path / "own.yaml").write_text(task)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    accuracy = [
        lm_eval.run(folder, ["own_letters"], tmp_path, None, True)["results"]["own_letters"]
        for folder in pair
    ]
    right = [pick(pair[0], m) == row["label"] for m, row in zip(ASKED, rows, strict=True)]
    assert accuracy[1]["acc,none"] == 1.0
    assert accuracy[0]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert sum(right) < len(right)


def pick(folder, messages):
    """Which of the choices 4 to 7 is most likely after the rendered messages."""
    policy = load(folder)
    rendered = policy.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    prompt = policy.tokenizer.encode(rendered, add_special_tokens=False)
    choices = [policy.tokenizer.encode(c, add_special_tokens=False) for c in "4567"]
    found = {i: float(x.sum()) for i, x, _ in exact(policy, [prompt] * 4, choices, 999)}
    return max(found, key=found.__getitem__)
