"""Two processes on the CPU against one: the same losses, gradients, metrics, files and ends."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from pipeline import forkserver, ranks, tables
from pipeline.engines import hf
from pipeline.optimizer import save_none
from tests import naive
from tests.project import ROOT
from tests.ranked import CASES, STEPS, Case, found, trained
from tests.telling import gone, wait_for

# float32 sums in another order: relative to the largest entry of a gradient, and to a metric
NEAR = 1e-5
COARSE = 2e-2  # products in bfloat16, whose rounding depends on the shape of a batch
FLOOR = 1e-4  # of a gradient that is nothing but rounding


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks found in every case: told.json, and each rank's tensors."""
    folder = tmp_path_factory.mktemp("two")
    with tempfile.TemporaryDirectory() as meeting:
        places = [ranks.Place(rank, 2, os.getpid(), f"{meeting}/meeting") for rank in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ranked", str(folder)],
                env={**os.environ, **ranks._environment(place)},
            )
            for place in places
        ]
        assert [process.wait(600) for process in processes] == [0, 0]
    parts = [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]
    return json.loads((folder / "told.json").read_text()), parts


def close(ours, plain, near):
    scale = float(plain.abs().max())
    assert float((ours - plain).abs().max()) <= near * max(scale, FLOOR)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_gradients_and_metrics_of_two_ranks_are_those_of_one(two, case):
    told, parts = two
    number, near = CASES.index(case), COARSE if case.bfloat16 else NEAR
    metrics, grads = found(case, ranks.One())
    assert told[str(number)] == pytest.approx(metrics, rel=near, abs=near)
    assert any(float(grad.abs().max()) > 1e-3 for grad in grads.values())
    for name, grad in grads.items():
        if not grad.ndim:  # of a term that is not there
            assert all(part[f"{number}.{name}"] == grad == 0 for part in parts)
            continue
        shares = [part[f"{number}.{name}"] for part in parts]
        assert len(shares[0]) == math.ceil(len(grad) / 2)  # each rank holds but its part
        close(torch.cat(shares), grad, near)


@pytest.mark.parametrize("lora", [False, True])
def test_steps_weights_and_moments_are_those_of_one_and_are_taken_up_by_two(two, lora):
    told, (first, second) = two
    metrics, state, _, ends = trained(Case("omniopd", lora), ranks.One())
    straight, again = told[f"trained.{lora}"]
    assert len(straight) == STEPS
    assert any(one["train/clipped"] for one in metrics)  # by the norm over both ranks
    for ours, plain in zip(straight, metrics, strict=True):
        assert ours == pytest.approx(plain, rel=NEAR)
    assert again == straight[1:]  # to the last bit
    for name, whole in (("state", state), ("again", state), ("ends", ends)):
        prefix = f"{name}.{lora}."
        ours = {n.removeprefix(prefix): t for n, t in first.items() if n.startswith(prefix)}
        assert ours.keys() == whole.keys()
        assert all(not t.numel() for n, t in second.items() if n.startswith(prefix) and t.ndim)
        for part, tensor in whole.items():
            assert (ours[part].shape, ours[part].dtype) == (tensor.shape, tensor.dtype)
            close(ours[part], tensor, NEAR)
    for part in state:
        assert torch.equal(first[f"state.{lora}.{part}"], first[f"again.{lora}.{part}"])


# the stage itself

SETTINGS = {
    **{"objective": "omniopd", "lr": 1e-3, "batch_size": 5, "micro_batch_size": 2, "epochs": 4},
    **{"reduce": "response_sum", "optimizer": "carry", "betas": [0.9, 0.98], "warmup_steps": 2},
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
        (folder / "dvc.yaml").symlink_to(ROOT / "dvc.yaml")
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
            targets.append([name, 1, 3, 2, 1.0, 0.5, float(draw.random()), 0.1])
        for key, rows, schema in (
            ("rollout/r1/rollouts", rollouts, tables.ROLLOUTS),
            ("prior/t1/targets", targets, tables.TARGETS),
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

    def start(self, cell, processes, out, keep=0.0, server=()):
        """A train stage; what it says goes to OUT.log."""
        runtime = {"keep_seconds": keep, "gradient_checkpointing": cell == "adapter"}
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

    def run(self, cell, processes, out, keep=0.0):
        """The folder of what an undisturbed stage wrote, forked from a server."""
        process = self.start(cell, processes, out, keep, self.server)
        assert process.wait(600) == 0, self.log(out).read_text()
        return self.folder / "data" / out

    def log(self, out):
        return self.folder / f"{out}.log"

    def kept(self, cell):
        return self.folder / ".resume" / f"train-{cell}" / "train.safetensors"

    def at_work(self, process, cell):
        """Its ranks, once it has kept a step."""
        wait_for(lambda: self.kept(cell).is_file() or process.poll() is not None)
        assert process.poll() is None
        ranks_of_it = psutil.Process(process.pid).children(recursive=True)
        assert len(ranks_of_it) >= 2
        return ranks_of_it


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    found = Cells(tmp_path_factory.mktemp("cells"))
    with forkserver.serving() as found.server:
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
        assert ours == pytest.approx(plain, rel=near, abs=near)
    runs = [json.loads((folder / "run.json").read_text()) for folder in (one, two)]
    first, second = ({k: v for k, v in run.items() if "seconds" not in k} for run in runs)
    assert first == second


@pytest.mark.parametrize(("cell", "near"), [("coarse", 0.1), ("adapter", 0.1)])
def test_the_stage_writes_with_two_processes_what_it_writes_with_one(cells, cell, near):
    same_to_rounding(cells.run(cell, 1, f"{cell}-1"), cells.run(cell, 2, f"{cell}-2"), near)
    assert not (cells.folder / ".resume").exists()


def test_after_many_steps_weights_and_moments_are_still_those_of_one_process(cells, straight):
    same_to_rounding(cells.run("long", 1, "alone"), straight, 1e-2)


def all_gone(several):
    wait_for(lambda: all(gone(rank.pid) for rank in several))


def test_a_killed_group_leaves_no_rank_and_goes_on_with_any_number_of_them(cells, straight):
    process = cells.start("long", 2, "killed", keep=1e-3)
    several = cells.at_work(process, "long")
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
    several = cells.at_work(process, "long")
    second = next(rank for rank in several if rank.environ()[ranks.ENV].startswith("1 "))
    second.send_signal(signal.SIGKILL)
    assert process.wait(60) == 1
    all_gone(several)
    assert "error: train: rank 1 of 2 ended by SIGKILL" in cells.log("lost").read_text()
    assert not list((cells.folder / "data" / "lost").glob("*"))
    shutil.rmtree(cells.kept("long").parent)
