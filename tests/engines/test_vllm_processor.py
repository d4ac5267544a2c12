"""What vLLM keeps of each token while it samples, against the same computed naively in float64."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.config.params import Runtime
from pipeline.engines.hf import load
from pipeline.engines.vllm import engine as vllm
from tests.engines.test_vllm import (  # noqa: F401
    CPU,
    ENDS,
    PROMPTS,
    apart,
    folder,
    installed,
    jobs,
    packages,
    services,
    settings,
)
from tests.naive import double

# vLLM as its own users drive it, with our processor; requests that are preempted are counted
DRIVEN = """
import json, sys
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.scheduler import Scheduler
from pipeline.engines.vllm.vllm_processor import KEEP, take

asked, preempted, found = json.load(sys.stdin), [], {}
plain = Scheduler._preempt_request

def counted(self, request, *rest, **more):
    preempted.append(request.request_id)
    return plain(self, request, *rest, **more)

Scheduler._preempt_request = counted
engine = LLMEngine.from_engine_args(EngineArgs(**asked["started"]))
for i, (prompt, how) in enumerate(asked["requests"]):
    if "logit_bias" in how:  # JSON has no other keys than text
        how["logit_bias"] = {int(token): more for token, more in how["logit_bias"].items()}
    params = SamplingParams(
        **how, extra_args={KEEP: i}, seed=10 * i, detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    engine.add_request(str(i), {"prompt_token_ids": prompt}, params)
while engine.has_unfinished_requests():
    for output in engine.step():
        i = int(output.request_id)
        keys = [(i, 10 * i + one.index) for one in output.outputs]
        kept = engine.collective_rpc(take, args=(keys,))[0]
        found[i] = [[list(one.token_ids), *values] for one, values in zip(output.outputs, kept)]
print("\\n" + json.dumps({"preempted": len(preempted), "found": found}))
"""
PLAIN = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True}
ALLOWED, BIAS = [2, 3, 5, 7, 11], {"5": 2.0, "9": -3.0}
REQUESTS = {  # by what is special of each
    "nothing": PLAIN,
    "three samples": {**PLAIN, "n": 3},
    "one token": {**PLAIN, "max_tokens": 1},
    "greedy": {**PLAIN, "temperature": 0.0},
    "temperature": {**PLAIN, "temperature": 0.6},
    "top_p": {**PLAIN, "top_p": 0.3},
    "top_k": {**PLAIN, "top_k": 2},
    "min_p": {**PLAIN, "min_p": 0.5},
    "penalties": {**PLAIN, "presence_penalty": 1.5, "repetition_penalty": 1.7},
    "allowed ids": {**PLAIN, "allowed_token_ids": ALLOWED},
    "bias": {**PLAIN, "logit_bias": BIAS},
    "no end before": {**PLAIN, "min_tokens": 6, "stop_token_ids": list(ENDS)},
}
MANY, LONG = 24, 200  # requests and tokens that a small cache cannot hold at once
CACHE = 24 * 131072  # bytes of so many blocks of 128 tokens


@pytest.fixture(scope="module")
def driven(folder, packages, tmp_path_factory):  # noqa: F811
    """What DRIVEN says of REQUESTS, and behind them of MANY long ones."""
    env = vllm.environment(CPU, 0)
    env["PYTHONPATH"] = f"{env['PYTHONPATH']}:{packages}"
    started = vllm.arguments(folder, CPU) | {"kv_cache_memory_bytes": CACHE}
    requests = [(PROMPTS[i], how) for i, how in enumerate(REQUESTS.values())]
    requests += [(PROMPTS[i], PLAIN | {"max_tokens": LONG}) for i in range(MANY)]
    asked = json.dumps({"started": started, "requests": requests})
    log = (tmp_path_factory.mktemp("driven") / "log").open("w+")
    command = [sys.executable, "-c", DRIVEN]
    done = subprocess.run(
        command, input=asked, env=env, text=True, stdout=subprocess.PIPE, stderr=log
    )
    log.seek(0)
    assert done.returncode == 0, log.read()[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def model(folder):  # noqa: F811
    return double(load(folder))


def logits(model, prompt, tokens):
    """(T, V) of float64, before each token."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0]
    return found[len(prompt) - 1 : -1]


def expected(logits_TV, tokens):
    logp_TV = torch.log_softmax(logits_TV, -1)
    own = logp_TV.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return own.numpy(), -(logp_TV.exp() * logp_TV.nan_to_num(neginf=0)).sum(-1).numpy()


def check(model, known, prompt, sample, change=lambda logits_TV: None):
    tokens, logps, entropies = sample
    logits_TV = logits(model, prompt, tokens)
    logits_TV[:, known:] = -torch.inf  # ids that stand for no token
    change(logits_TV)
    wanted, true = expected(logits_TV, tokens)
    np.testing.assert_allclose(logps, wanted, atol=1e-4)
    np.testing.assert_allclose(entropies, true, atol=1e-4)


@services
@pytest.mark.parametrize("name", REQUESTS)
def test_values_are_those_before_penalties_and_temperature_and_behind_masks(
    name,
    folder,  # noqa: F811
    driven,
    model,
):
    place, how = list(REQUESTS).index(name), REQUESTS[name]
    known, samples = len(load(folder).tokenizer), driven["found"][str(place)]

    def change(logits_TV):
        match name:
            case "allowed ids":
                others = [i for i in range(logits_TV.shape[1]) if i not in ALLOWED]
                logits_TV[:, others] = -torch.inf
            case "bias":
                for token, added in BIAS.items():
                    logits_TV[:, int(token)] += added
            case "no end before":
                logits_TV[: how["min_tokens"], list(ENDS)] = -torch.inf

    assert len(samples) == how.get("n", 1)
    assert len({tuple(tokens) for tokens, *_ in samples}) == len(samples)
    for sample in samples:
        assert len(sample[0]) == len(sample[1]) == len(sample[2])
        check(model, known, PROMPTS[place], sample, change)


@services
def test_a_sample_that_was_preempted_has_the_values_of_one_that_was_not(
    folder,  # noqa: F811
    driven,
    model,
):
    assert driven["preempted"] > 0
    known = len(load(folder).tokenizer)
    for i in range(MANY):
        (sample,) = driven["found"][str(len(REQUESTS) + i)]
        assert len(sample[0]) == LONG
        check(model, known, PROMPTS[i], sample)


@pytest.mark.slow  # an engine of two processes
@services
def test_parts_of_an_engine_keep_what_the_whole_keeps(folder, installed):  # noqa: F811
    with vllm.Engine(folder, Runtime(tensor_parallel=2), exact=True) as engine:
        found = dict(engine.sample(jobs(), settings()))
    gaps = apart(load(folder), [found[i][0] for i in range(len(PROMPTS))])
    assert max(gaps["engine_gap_max"], gaps["engine_entropy_gap_max"]) < 1e-4
