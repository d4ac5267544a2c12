"""The student of a train cell: loaded to be trained, saved, and the policies read beside it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.config.method import Lora
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.engines import adapters, checkpoints
from pipeline.engines.hf import Frozen, Policy, load, save, white_box
from pipeline.stage.resume import FOLDER, State
from pipeline.training.no_signal import Metrics
from pipeline.training.optimizer import Optimizer
from pipeline.training.process_group import Group


def policies(
    policy: Path,
    reference: Path | None,
    teacher: Path | None,
    adapter: Lora | None,
    seed: int,
    device: str,
) -> tuple[Policy, Frozen]:
    """The student that is in the cell `policy`, and what is read beside it."""
    below = policy / "checkpoint"
    trained = student(below, adapter, seed, device)
    beside = [folder and folder / "checkpoint" for folder in (reference, teacher)]
    return trained, frozen(trained, below, beside[0], beside[1], device)


def student(folder: Path, adapter: Lora | None, seed: int, device: str) -> Policy:
    """Every weight in float32 or, with an adapter, the frozen ones as their checkpoint has them.

    Round 1 finds a whole checkpoint and adds the adapter, later rounds find that. Raises UserError.
    """
    adapted = checkpoints.is_adapter(folder)
    policy = load(folder, device, torch.float32 if adapter is None else None)
    if adapter is not None and not adapted:
        adapters.add(policy.model, adapter, seeds.number("lora", seed))
    elif adapted and not (adapter and adapters.same(policy.model, adapter)):
        raise UserError(
            f"{folder}: found an adapter of other settings than this cell's, {adapter}. "
            "Run `omniopd plan`."
        )
    return policy


def frozen(
    trained: Policy, policy: Path, reference: Path | None, teacher: Path | None, device: str
) -> Frozen:
    """The policies that are read beside the student `trained`, which is of the checkpoint `policy`.

    With an adapter there is no second copy of the reference in memory: it is the student with its
    adapter off, as the adapter sits on the round-0 checkpoint. Raises UserError if it does not.
    """
    vocabulary = trained.tokenizer.get_vocab()
    beside = None if teacher is None else white_box(teacher, vocabulary, device)
    if reference is None:
        return Frozen(None, beside)
    if not adapters.has(trained.model):
        return Frozen(white_box(reference, vocabulary, device), beside)
    base = checkpoints.base(policy)
    if base.resolve() != reference.resolve():
        raise UserError(
            f"{reference}: found another reference than {base}, which the adapter sits on. "
            "Run `omniopd plan`."
        )
    return Frozen(trained, beside)


def take_up(optimizer: Optimizer, state: State | None, group: Group, total: int) -> list[Metrics]:
    """Metrics of the steps that a killed run kept, whose weights and moments are taken up.

    `state` is what the first process of the group has, None on the others.
    """
    kept = group.broadcast_object(None if state is None else state.kept("train"))
    if kept is None:
        return []
    tensors, metrics = kept
    optimizer.take_up(dict(tensors), FOLDER)
    if state is not None:
        state.say(f"{len(metrics)} of {total} steps")
    return list(metrics)


def keep_step(
    optimizer: Optimizer, state: State | None, group: Group, metrics: list[Metrics]
) -> None:
    """Keep weights and moments after a step if it is time to."""
    if any(group.any_rank([state is not None and state.due()])):
        tensors = optimizer.state(keep_weights=True)
        if state is not None:
            state.keep("train", tensors, metrics)


def write(
    trained: Policy,
    policy: Path,
    optimizer: Optimizer,
    carry: bool,
    out: Path,
    group: Group,
    made: tuple[Lora | None, int],
    moved: bool = True,
) -> None:
    """Write checkpoint and, to `carry`, moments of a student, as the first process of the group.

    If it was not `moved`, what it was read from is copied, byte for byte, unless that has no
    adapter yet. Where weights are dealt out they are put, one by one, into the student as it was
    before, loaded once more (`made`: with which adapter and seed): files are those of one process.
    """
    if not moved and checkpoints.is_adapter(policy) == (made[0] is not None):
        _leave(policy.parent, out, group)
        return
    full = group.gathered(trained, lambda: student(policy, *made, "cpu"))
    if full is not None:
        keep(full, policy, out / "checkpoint")
    keep_moments(trained, policy, optimizer, out / "optimizer.safetensors", carry)


def _leave(policy: Path, out: Path, group: Group) -> None:
    """Write what the cell in `policy` wrote."""
    if not group.first:
        return
    with checkpoints.replacing_folder(out / "checkpoint") as temporary:
        shutil.copytree(
            policy / "checkpoint", temporary, copy_function=shutil.copyfile, dirs_exist_ok=True
        )
    with replacing(out / "optimizer.safetensors") as path:
        shutil.copyfile(policy / "optimizer.safetensors", path)


def keep(found: Policy, policy: Path, out: Path) -> None:
    """Write the checkpoint of a student that was trained from `policy`."""
    if adapters.has(found.model):
        adapters.save(found.model, found.tokenizer, checkpoints.base(policy), out)
    else:
        save(found.model, found.tokenizer, out, dtype(policy))


def keep_moments(
    found: Policy, policy: Path, optimizer: Optimizer, path: Path, carry: bool = True
) -> None:
    """Save the optimizer, with float32 weights where the checkpoint is coarser; no adapter's is."""
    coarse = dtype(policy) != torch.float32 and not adapters.has(found.model)
    optimizer.save(path, keep_weights=coarse, moments=carry)


def dtype(policy: Path) -> Any:
    """The dtype that full checkpoints of this student are kept in."""
    config = json.loads((checkpoints.base(policy) / "config.json").read_text(encoding="utf-8"))
    found = getattr(torch, config.get("dtype") or "float32")
    assert isinstance(found, torch.dtype)
    return found
