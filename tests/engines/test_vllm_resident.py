"""Engines that outlive the stage that asked for them: lent, given back, lost, gone at the end."""

import subprocess
import sys
import time

import psutil
import pytest
import torch

from pipeline.config import params
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.engines.asks import Ask, Draw
from pipeline.engines.hf import load
from pipeline.engines.vllm import engine as vllm
from pipeline.engines.vllm import resident, vllm_process
from pipeline.engines.vllm.resident import lending
from pipeline.processes import reaper
from pipeline.teachers.protocol import Asked
from pipeline.teachers.providers.local import LocalTeacher
from tests.engines.test_vllm import (  # noqa: F401
    CPU,
    children,
    folder,
    installed,
    jobs,
    packages,
    services,
    settings,
)

pytestmark = services
PREFIXES = {p: tuple([2 + i % 9 for i in range(p)]) for p in (130, 140, 300)}
STAGE = (
    "import sys, time\nfrom pathlib import Path\n"
    "from pipeline.config import params\nfrom pipeline.engines.vllm import engine as vllm\n"
    "engine = vllm.Engine(Path(sys.argv[1]), params.Runtime(), resident='one')\n"
    "asked = [vllm.Job([2, 3], i) for i in range(2000)]\n"
    "found = engine.sample(asked, vllm.Settings(1.0, 1.0, 0, 200, (1,)))\n"
    "print(next(found)[0], flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def lender(installed, monkeypatch):  # noqa: F811
    """Its engines are children of this process, as those of a run are."""
    before = children()
    with lending() as lent:
        monkeypatch.setenv(vllm_process.ENV, lent[vllm_process.ENV])
        yield lent
    assert children() == before


def started(before=()):
    return [child for child in psutil.Process().children() if child not in before]


def taught(folder, resident):  # noqa: F811
    """What a stage's teacher answers, and what it says of its prompts."""
    asked = Asked("completions", 1.0, "live", CPU)
    teacher = LocalTeacher(folder, folder, asked, "vllm", resident)
    ask = Ask(PREFIXES, [Draw(p, s, 100 * p + s) for p in PREFIXES for s in (0, 1)])
    answers = {
        (draw.position, draw.sample): one.text
        for answered in teacher.answer([ask], 6, None)
        for draw, one in answered.continuations.items()
    }
    counts = teacher.counts
    teacher._engine.close()
    return answers, counts


@pytest.mark.slow
def test_an_engine_outlives_the_cell_that_asked_for_it(folder, lender):  # noqa: F811
    """A worker kills all that carries a cell's mark when the cell is done."""
    before = started()
    with reaper.watched():
        taught(folder, "one")
    (engine,) = started(before)
    taught(folder, "one")
    assert started(before) == [engine]


@pytest.mark.slow
def test_a_second_stage_finds_the_engine_loaded_and_its_cache_empty(
    folder,  # noqa: F811
    lender,
    monkeypatch,
):
    before = started()
    alone = taught(folder, resident=None)  # a small one is its stage's own
    assert started(before) == []
    assert checkpoints.parameters(folder) == load(folder).model.num_parameters()
    limit = checkpoints.parameters(folder) - 1
    monkeypatch.setattr("pipeline.teachers.providers.local.RESIDENT", limit)
    first = taught(folder, resident=None)
    (engine,) = started(before)
    second = taught(folder, resident=True)
    assert started(before) == [engine]
    assert first == second == alone
    other = vllm.Engine(folder, CPU, resident="another model")
    (second,) = started(before)  # which made room for it
    assert second != engine
    other.close()


def test_a_stage_killed_at_work_leaves_no_engine_behind(folder, lender):  # noqa: F811
    before = started()
    command = [sys.executable, "-c", STAGE, str(folder)]
    stage = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert stage.stdout.readline().strip().isdigit()
    (engine,) = [child for child in started(before) if child.pid != stage.pid]
    stage.kill()
    stage.wait()
    stage.stdout.close()
    engine.wait(60)


@pytest.mark.slow
def test_a_lent_engine_that_is_lost_is_an_error_that_says_what_to_do(folder, lender):  # noqa: F811
    before = started()
    engine = vllm.Engine(folder, CPU, resident="one")
    (process,) = started(before)
    process.kill()
    with pytest.raises(UserError, match=r"status -9.*runtime\.engine_memory"):
        list(engine.sample(jobs(), settings()))
    assert started(before) == []


def test_where_nobody_lends_the_stage_has_its_own(monkeypatch):
    monkeypatch.setattr(vllm_process, "Child", lambda *asked: asked)
    monkeypatch.setenv(vllm_process.ENV, "/nowhere/engines")
    assert vllm_process.start({"model": "m"}, {"A": "b"}, "one") == ({"model": "m"}, {"A": "b"})


@pytest.mark.slow
def test_a_run_is_over_with_an_engine_still_lent(folder, installed, monkeypatch):  # noqa: F811
    lenders, before = [], children()  # kept, as a run that goes on may keep its lender
    start_lender = resident._Lender
    monkeypatch.setattr(
        resident, "_Lender", lambda address: lenders.append(start_lender(address)) or lenders[-1]
    )
    with lending() as lent:
        monkeypatch.setenv(vllm_process.ENV, lent[vllm_process.ENV])
        engine = vllm.Engine(folder, CPU, resident="one")
        start = time.monotonic()
    assert children() == before
    with pytest.raises(UserError, match="ended with status"):
        list(engine.sample(jobs(), settings()))
    assert time.monotonic() - start < 60


@pytest.mark.gpu
def test_on_a_gpu_an_engine_that_nobody_has_gives_the_memory_back(folder, lender):  # noqa: F811
    found, gpu = [], params.Runtime(device="cuda")
    for _ in range(2):
        free, _ = torch.cuda.mem_get_info()
        with vllm.Engine(folder, gpu, resident="one") as engine:
            found.append(dict(engine.sample(jobs(), settings())))
            assert torch.cuda.mem_get_info()[0] < 0.5 * free
        deadline = time.monotonic() + 60
        while torch.cuda.mem_get_info()[0] < 0.9 * free and time.monotonic() < deadline:
            time.sleep(0.2)
        assert torch.cuda.mem_get_info()[0] > 0.9 * free
    assert found[0] == found[1]
