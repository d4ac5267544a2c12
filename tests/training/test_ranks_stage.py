"""The train stage with two processes on the CPU: its files, its ends, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines import hf
from pipeline.plan import expand, experiment
from pipeline.processes import fork_server
from pipeline.training import launcher, process_group
from pipeline.training.optimizer import save_none
from tests import naive
from tests.locked import lock
from tests.project import MINIATURE, ROOT
from tests.ranked import close
from tests.telling import gone, wait_for

SETTINGS = {
    **{"objective": "omniopd", "lr": 1e-3, "batch_size": 5, "micro_batch_size": 2, "epochs": 4},
    **{"reduce": "response_sum", "optimizer": "carry", "betas": [0.9, 0.98], "warmup_steps": 2},
    **{"correction": "none", "baseline": "none", "anchor": "outside"},
    **{"clip": 1.0, "beta": 0.1, "seed": 0, "round": 1, "prompts_per_round": 6},
}
LORA = {"rank": 3, "alpha": 6.0, "targets": ["q_proj", "down_proj"]}
CELLS = {  # policy, reference, settings
    "coarse": ("coarse", "reference", {"reduce": "token_mean"}),
    "adapter": ("coarse", "coarse", {"lora": LORA}),
    "long": ("policy", "reference", {"epochs": 20}),
}


class Cells:
    """Train cells on twelve random responses, in a folder with the project's code."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("pipeline", "stages"):
            (folder / name).symlink_to(ROOT / name)
        for number, name in enumerate(("policy", "coarse", "reference")):
            policy = naive.tiny(number)
            dtype = torch.bfloat16 if name == "coarse" else torch.float32
            hf.save(policy.model, policy.tokenizer, folder / name / "checkpoint", dtype)
            save_none(folder / name / "optimizer.safetensors")
        draw, rollouts, targets = np.random.default_rng(0), [], []
        for number in range(12):
            ids = draw.integers(2, 18, draw.integers(4, 12)).tolist()
            name = f"r{number}"
            logps = draw.uniform(-2, 0, len(ids)).tolist()
            rollouts.append([name, name, 0, 1, [3, 2, 5], ids, logps, logps, "", "length", None])
            targets.append([name, 1, 3, 2, 1.0, 0.5, 0.5, 0.1, float(draw.random())])
        for key, rows, schema in (
            ("rollout/r1/rollouts", rollouts, schemas.ROLLOUTS),
            ("prior/t1/targets", targets, schemas.TARGETS),
        ):
            columns = [dict(zip(schema.names, row, strict=True)) for row in rows]
            path = folder / "data" / f"{key}.parquet"
            path.parent.mkdir(parents=True)
            tables.write(pa.Table.from_pylist(columns, schema=schema), path, schema)
        inputs = {"rollouts": "r1", "targets": "t1", "objective": "omniopd"}
        cells = {
            name: {"params": SETTINGS | more, "policy": x, "reference": y, **inputs}
            for name, (x, y, more) in CELLS.items()
        }
        (folder / "plan.yaml").write_text(json.dumps({"cells": {"train": cells}}))
        lock(folder)

    def start(self, cell, processes, out, keep=0.0, device="cpu", server=()):
        """A train stage; what it says goes to OUT.log."""
        runtime = {"keep_seconds": keep, "device": device}
        runtime |= {"gradient_checkpointing": cell == "adapter"}
        params = {"runtime": runtime, "train": {"processes": processes}}
        (self.folder / "params.yaml").write_text(json.dumps(params))
        policy, reference, _ = CELLS[cell]
        given = {"policy": policy, "rollouts": "data/rollout/r1/rollouts.parquet"}
        given |= {"targets": "data/prior/t1/targets.parquet", "reference": reference}
        command = ["-m", "stages.train", "--cell", cell, "--out", f"data/{out}"]
        command += [word for name, path in given.items() for word in (f"--{name}", path)]
        with self.log(out).open("w") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(self.folder), **dict(server)},
                stderr=log,
            )

    def run(self, cell, processes, out, keep=0.0, device="cpu"):
        """The folder of what an undisturbed stage wrote, forked from a server."""
        process = self.start(cell, processes, out, keep, device, self.server)
        assert process.wait(600) == 0, self.log(out).read_text()
        return self.folder / "data" / out

    def log(self, out):
        return self.folder / f"{out}.log"

    def kept(self, cell):
        return self.folder / ".resume" / f"train-{cell}" / "train.safetensors"

    def at_work(self, process, cell, out):
        """Its ranks, once it has kept a step."""
        wait_for(lambda: self.kept(cell).is_file() or process.poll() is not None)
        assert process.poll() is None, self.log(out).read_text()
        ranks_of_it = psutil.Process(process.pid).children(recursive=True)
        assert len(ranks_of_it) >= 2
        return ranks_of_it


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    found = Cells(tmp_path_factory.mktemp("cells"))
    with fork_server.serving() as found.server:
        yield found


@pytest.fixture(scope="module")
def straight(cells):
    """What two undisturbed processes write of the cell that others are killed at."""
    return cells.run("long", 2, "straight")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_to_rounding(one, two, near):
    """Files of one process and of two: the same names, texts and tensors to rounding."""
    names = sorted(str(x.relative_to(one)) for x in one.rglob("*") if x.is_file())
    assert names == sorted(str(x.relative_to(two)) for x in two.rglob("*") if x.is_file())
    for name in names:
        if name.endswith(".safetensors"):
            ours, plain = load_file(two / name), load_file(one / name)
            assert list(ours) == list(plain)
            for tensor in plain:
                assert ours[tensor].dtype == plain[tensor].dtype
                close(ours[tensor].double(), plain[tensor].double(), near)
        elif name not in ("metrics.jsonl", "run.json"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
    for ours, plain in zip(lines(two), lines(one), strict=True):
        assert ours == nearly(plain, near)
    runs = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    first, second = ({k: v for k, v in run.items() if "seconds" not in k} for run in runs)
    assert first == nearly(second, near)


def nearly(values, near):
    """The same names with numbers about as large; null is a norm that was not measured."""
    numbers = {n: x for n, x in values.items() if isinstance(x, float)}
    return values | {n: pytest.approx(x, rel=near, abs=near) for n, x in numbers.items()}


@pytest.mark.parametrize(
    ("cell", "near"), [("coarse", 0.1), pytest.param("adapter", 0.1, marks=pytest.mark.slow)]
)
def test_the_stage_writes_with_two_processes_what_it_writes_with_one(cells, cell, near):
    outs = cells.run(cell, 1, f"{cell}-1"), cells.run(cell, 2, f"{cell}-2")
    same_to_rounding(*outs, near)
    assert not (cells.folder / ".resume").exists()
    if cell == "coarse":  # what the steps changed, not only what was there before
        before = load_file(cells.folder / "coarse" / "checkpoint" / "model.safetensors")
        one, two = (load_file(out / "optimizer.safetensors") for out in outs)
        written = load_file(outs[1] / "checkpoint" / "model.safetensors")
        for name, start in before.items():
            ours, plain = (found[f"weight.{name}"] for found in (two, one))
            close(ours.double() - start.double(), plain.double() - start.double(), near)
            assert written[name].equal(ours.bfloat16())


def test_after_many_steps_weights_and_moments_are_still_those_of_one_process(cells, straight):
    same_to_rounding(cells.run("long", 1, "alone"), straight, 1e-2)


def all_gone(several):
    wait_for(lambda: all(gone(rank.pid) for rank in several))


@pytest.mark.slow
def test_a_killed_group_leaves_no_rank_and_goes_on_with_any_number_of_them(cells, straight):
    process = cells.start("long", 2, "killed", keep=1e-3)
    several = cells.at_work(process, "long", "killed")
    process.kill()
    process.wait()
    all_gone(several)
    assert not list((cells.folder / "data" / "killed").glob("*"))
    kept, copy = cells.kept("long").parent, cells.folder / "kept"
    shutil.copytree(kept, copy)
    for processes in (2, 1):
        shutil.copytree(copy, kept, dirs_exist_ok=True)
        out = cells.run("long", processes, f"again-{processes}", keep=1e3)
        assert "goes on after" in cells.log(f"again-{processes}").read_text()
        same_to_rounding(straight, out, 1e-2)
        if processes == 2:  # to the last bit
            for name in ("checkpoint/model.safetensors", "optimizer.safetensors", "metrics.jsonl"):
                assert (out / name).read_bytes() == (straight / name).read_bytes()
        assert not kept.exists()


def test_a_rank_that_dies_ends_the_others_and_the_stage_says_so(cells):
    process = cells.start("long", 2, "lost", keep=1e-3)
    several = cells.at_work(process, "long", "lost")
    second = next(rank for rank in several if rank.environ()[process_group.ENV].startswith("1 "))
    second.send_signal(signal.SIGKILL)
    assert process.wait(60) == 2  # of every UserError
    all_gone(several)
    assert "error: train: rank 1 of 2 ended by SIGKILL" in cells.log("lost").read_text()
    assert not list((cells.folder / "data" / "lost").glob("*"))
    shutil.rmtree(cells.kept("long").parent)


@pytest.mark.parametrize(
    ("processes", "device", "bits", "said"),
    [
        (2, "cpu", 8, r"train\.moment_bits: found 8, wanted null, as train\.processes is 2"),
        (99, "cuda", None, r"train\.processes: found 99, wanted at most \d+, the GPUs"),
        (2, "cuda:1", None, r"runtime\.device: found cuda:1, wanted cpu or cuda"),
    ],
)
def test_ranks_that_cannot_work_are_refused_before_any_starts(processes, device, bits, said):
    with pytest.raises(UserError, match=said):
        launcher.launched("train", "c0", processes, device, bits)


def test_one_process_launches_nothing_and_imports_nothing_for_it():
    code = (
        "import sys\n"
        "from pipeline.training.launcher import launched\n"
        "assert not launched('x', 'c0', 1, 'cpu', 8)\n"
        "assert not {'torch', 'pipeline.training.fsdp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_rank_whose_launcher_is_gone_ends_before_it_computes():
    place = process_group.Place(0, 2, os.getppid(), "/nowhere")
    code = (
        "from pipeline.training.launcher import group\n"
        "from pipeline.config.params import Runtime\n"
        "with group(Runtime()): 0"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **launcher._environment(place)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert "the process that started this rank is gone" in found.stderr


def test_the_number_of_processes_is_part_of_no_cell_and_of_no_arm():
    values = experiment.read_yaml(MINIATURE)

    def plans(**processes):
        changed = json.loads(json.dumps(values))
        changed["train"] |= processes
        return expand.expand(experiment.of(changed, "params.yaml"))

    assert plans() == plans(processes=2)
    values["arms"]["omniopd"] = {"train": {"processes": 2}}
    with pytest.raises(UserError, match=r"train\.processes: found 'an override'"):
        plans()


@pytest.mark.gpu
def test_each_rank_takes_the_gpu_of_its_number_and_two_find_what_one_finds(cells):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found = [cells.run("long", n, f"gpu-{n}", device="cuda") for n in (1, 2)]
    same_to_rounding(*found, 1e-2)
