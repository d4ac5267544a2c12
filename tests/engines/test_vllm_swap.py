"""Other weights in a running engine: it then is what a fresh one is, or it is ended."""

import json
import logging
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from pipeline.engines import adapters, checkpoints, hf
from pipeline.engines.sampling import Sampler
from pipeline.engines.vllm import engine as vllm
from pipeline.engines.vllm import vllm_student
from tests.engines.test_vllm import (  # noqa: F401
    CPU,
    PROMPTS,
    apart,
    children,
    folder,
    installed,
    packages,
    services,
)
from tests.engines.test_vllm_adapters import LORA
from tests.engines.test_vllm_resident import lender, started  # noqa: F401

pytestmark = services
SEEDS = [1000 + i for i in range(len(PROMPTS))]


def moved(folder, to, seed):  # noqa: F811
    """A checkpoint of the same shape with other weights, tied as the first."""
    policy = hf.load(folder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    hf.save(policy.model, policy.tokenizer, to, torch.float32)
    generation = "generation_config.json"
    (to / generation).write_text((folder / generation).read_text())
    return to


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):  # noqa: F811
    return moved(folder, tmp_path_factory.mktemp("other") / "checkpoint", 7)


def sampled(checkpoint):
    """What a stage samples of a student, and what it says of its engine."""
    with vllm_student.Student(checkpoint, CPU, exact=True) as student:
        found = dict(student.generate(PROMPTS, SEEDS, Sampler(1.0), 20))
        counts = student.counts
    return [found[i] for i in range(len(PROMPTS))], counts


def test_an_engine_with_other_weights_is_to_the_bit_what_a_fresh_one_is(
    folder,  # noqa: F811
    other,
    installed,  # noqa: F811
    request,
):
    assert checkpoints.shape(folder) == checkpoints.shape(other)
    alone, said = sampled(other)
    assert "engine_starts" not in said  # nobody lends one
    request.getfixturevalue("lender")
    before = started()
    first, said = sampled(folder)
    assert (said["engine_starts"], said["engine_swaps"]) == (1, 0)
    engines = started(before)
    for _ in range(2):  # the second finds its own weights
        found, said = sampled(other)
        assert found == alone != first
    assert said["engine_swaps"] == said["engine_starts"] == 0
    assert apart(hf.load(other), found)["engine_gap_max"] < 1e-4
    assert started(before) == engines  # one start in all


def test_an_engine_that_fails_its_proof_or_its_load_is_ended_and_another_started(
    folder,  # noqa: F811
    other,
    lender,  # noqa: F811
    tmp_path,
    monkeypatch,
    caplog,
):
    before = started()
    sampled(folder)
    (old,) = started(before)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "omniopd"):
        patch.setattr(vllm_student, "off", lambda engine, folder: 0.5)
        found, said = sampled(other)
    assert (said["engine_starts"], said["engine_swaps"]) == (1, 0)
    assert "found log-probabilities 0.5 nats off those of the checkpoint" in caplog.text
    assert apart(hf.load(other), found)["engine_gap_max"] < 1e-4
    assert not old.is_running()
    (old,) = started(before)
    monkeypatch.setattr(checkpoints, "shape", lambda folder: "any")  # as if they were alike
    broken = tmp_path / "checkpoint"
    policy = hf.load(folder)
    policy.model.resize_token_embeddings(64)
    hf.save(policy.model, policy.tokenizer, broken, torch.float32)
    caplog.clear()
    sampled(folder)  # one more start, of the shape of that name
    with caplog.at_level(logging.WARNING, "omniopd"):
        found, said = sampled(broken)
    assert said["engine_starts"] == 1
    assert "other tensors in" in caplog.text
    assert apart(hf.load(broken), found)["engine_gap_max"] < 1e-4


def adapter(folder, to, seed):  # noqa: F811
    policy = hf.load(folder)
    adapters.add(policy.model, LORA, seed=seed)
    torch.manual_seed(seed)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.15)
    adapters.save(policy.model, policy.tokenizer, folder, to)
    return to


def test_the_adapter_of_a_later_round_answers_for_itself(folder, lender, tmp_path):  # noqa: F811
    before = started()
    rounds = [adapter(folder, tmp_path / str(i) / "checkpoint", i) for i in (1, 2)]
    found = [sampled(one)[0] for one in rounds]
    assert len(started(before)) == 1
    for checkpoint, other, rows in zip(rounds, rounds[::-1], found, strict=True):
        assert apart(hf.load(checkpoint), rows)["engine_gap_max"] < 1e-3
        assert apart(hf.load(other), rows)["engine_gap_mean"] > 0.05


DRIVER = """
import os, sys, time
from pathlib import Path
import psutil
from pipeline.config import params
from pipeline.engines.vllm import vllm_student
from pipeline.engines.vllm.resident import lending
with lending() as lent:
    os.environ.update(lent)
    with vllm_student.Student(Path(sys.argv[1]), params.Runtime()):
        pass
    print([c.pid for c in psutil.Process().children()], flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_an_idle_engine_ends_with_the_process_that_drives_however_that_ends(
    end,
    folder,  # noqa: F811
    installed,  # noqa: F811
):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    (pid,) = json.loads(driver.stdout.readline())
    engine = psutil.Process(pid)
    assert engine.is_running()
    driver.send_signal(end)
    driver.wait(60)
    start = time.monotonic()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running()
    assert time.monotonic() - start < 10
    driver.stdout.close()


# vLLM's own reload, without and with what is done behind it
GUARDS = """
import json, sys
from pathlib import Path
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind
from pipeline.engines.vllm import vllm_weights

asked = json.load(sys.stdin)
first, other, wider = (Path(x) for x in asked["folders"])
engine = LLMEngine.from_engine_args(EngineArgs(**asked["started"]))

def logprobs():
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=1, detokenize=False)
    engine.add_request("x", {"prompt_token_ids": asked["prompt"]}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                at = output.outputs[0].logprobs[0]
                found = sorted(one.logprob for one in at.values())
    return found, output.num_cached_tokens

def raised(run):
    try:
        run()
    except RuntimeError as error:
        return str(error)

said = {"before": logprobs()}
said["shapes"] = raised(lambda: vllm_weights.swap(engine, wider, first))
said["untouched"] = logprobs()
engine.collective_rpc("reload_weights", kwargs={"weights_path": str(other)})
said["stale blocks"] = logprobs()
vllm_weights.forget(engine)
said["stale head"] = logprobs()
engine.collective_rpc(vllm_weights.pack_heads)
vllm_weights.forget(engine)
said["swapped"] = logprobs()
params = SamplingParams(max_tokens=9, ignore_eos=True, detokenize=False)
engine.add_request("y", {"prompt_token_ids": asked["prompt"]}, params)
engine.step()
said["running"] = raised(lambda: vllm_weights.swap(engine, other, other))
print("\\n" + json.dumps(said))
"""


def test_each_guard_stops_what_vllm_would_do_without_it(
    folder,  # noqa: F811
    other,
    packages,  # noqa: F811
    tmp_path,
):
    wider = tmp_path / "wider"
    policy = hf.load(folder)
    policy.model.resize_token_embeddings(64)
    hf.save(policy.model, policy.tokenizer, wider, torch.float32)
    prompt = [2 + i % 9 for i in range(300)]  # vLLM caches in blocks of 128 on a CPU
    asked = {"folders": [str(folder), str(other), str(wider)], "prompt": prompt}
    asked["started"] = vllm.arguments(folder, CPU)
    env = vllm.environment(CPU, 0)
    env["PYTHONPATH"] = f"{env['PYTHONPATH']}:{packages}"
    done = subprocess.run(
        [sys.executable, "-c", GUARDS],
        input=json.dumps(asked),
        env=env,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 0
    said = json.loads(done.stdout.splitlines()[-1])

    def best(checkpoint):
        """The largest log-probability of what follows the prompt."""
        policy = hf.load(checkpoint)
        with torch.no_grad():
            logits_V = policy.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        return float(torch.log_softmax(logits_V, -1).max())

    old, new = best(folder), best(other)
    assert abs(old - new) > 1e-2
    found = {name: max(said[name][0]) for name in said if isinstance(said[name], list)}
    assert np.allclose([found["before"], found["untouched"]], old, atol=1e-4)
    assert "other tensors in" in said["shapes"]
    assert said["stale blocks"][1] == 256  # of the old weights, and served on
    assert abs(found["stale head"] - new) > 1e-3  # the head is the embedding of before
    assert abs(found["swapped"] - new) < 1e-4
    assert said["swapped"][1] == 0
    assert "still in use" in said["running"]
