"""Two processes on the CPU against one: the same losses, gradients, metrics and steps."""

import json
import math
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from safetensors.torch import load_file

from pipeline.training import launcher, process_group
from tests.ranked import CASES, STEPS, Case, close, found, trained

# float32 sums in another order: relative to the largest entry of a gradient, and to a metric
NEAR = 1e-5
COARSE = 2e-2  # products in bfloat16, whose rounding depends on the shape of a batch


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two ranks found in every case: told.json, and each rank's tensors."""
    folder = tmp_path_factory.mktemp("two")
    with tempfile.TemporaryDirectory() as meeting:
        places = [
            process_group.Place(rank, 2, os.getpid(), f"{meeting}/meeting") for rank in range(2)
        ]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ranked", str(folder)],
                env={**os.environ, **launcher._environment(place)},
            )
            for place in places
        ]
        assert [process.wait(600) for process in processes] == [0, 0]
    parts = [load_file(folder / f"rank-{rank}.safetensors") for rank in range(2)]
    return json.loads((folder / "told.json").read_text()), parts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_gradients_and_metrics_of_two_ranks_are_those_of_one(two, case):
    told, parts = two
    number, near = CASES.index(case), COARSE if case.bfloat16 else NEAR
    metrics, grads = found(case, process_group.One())
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
    metrics, state, _, ends = trained(Case("omniopd", lora), process_group.One())
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
