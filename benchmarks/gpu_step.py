"""A step of omniopd on one GPU: gradients in bfloat16, alone and by FSDP2 over one process."""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_models import Size, policy, shared
from benchmarks.measure import Row, in_turn

REPEATS = 3
BETA = 0.1


def rows(size: Size, device: str, scratch: Path) -> list[Row]:
    from pipeline.engines.hf import Frozen
    from pipeline.training.fsdp import joined
    from pipeline.training.process_group import Place

    student, reference = (policy(size, device, seed, "float32") for seed in (0, 1))
    reference.model.requires_grad_(False)
    prompts, responses = (part[: size.step_rows] for part in shared(size))
    batch = list(zip(prompts, responses, strict=True))
    alone = functools.partial(_gradients, student, Frozen(reference, None), batch, device)
    theirs = functools.partial(_full_logits, student.model, reference.model, batch, device)
    told = ("steps/s", "full logits", 1.0, alone, theirs, REPEATS)
    found = [in_turn("gpu_step", *told)]
    with joined(Place(0, 1, os.getpid(), str(scratch / "meeting")), device) as group:
        sharded = group.spread(
            policy(size, "cpu", 0, "float32"), Frozen(policy(size, "cpu", 1, "float32"), None)
        )
        several = functools.partial(_gradients, *sharded, batch, device, group)
        told = ("steps/s", "without", 1.0, several, alone, REPEATS)
        return [*found, in_turn("gpu_step_fsdp", *told)]


def _gradients(student: Any, frozen: Any, batch: Any, device: str, group: Any = None) -> None:
    import torch

    from pipeline.method.objectives import Example, Sequence, omniopd
    from pipeline.training.gradients import gradients
    from pipeline.training.optimizer_steps import Step
    from pipeline.training.process_group import One

    chunks = np.arange(len(batch[0][1])) % 2 == 0
    weight = np.full(len(chunks), 0.5, np.float32)
    examples = [Example([Sequence(p, r, chunks, weight, ~chunks, None)]) for p, r in batch]
    own = omniopd.Settings(beta=BETA, importance_ratio="none")
    terms = functools.partial(omniopd.terms, own=own)
    step = Step(terms, BETA, False, len(batch), bfloat16=True, group=group or One(), norms=False)
    gradients(student, frozen, examples, step)
    if device != "cpu":
        torch.cuda.synchronize()


def _full_logits(model: Any, reference: Any, batch: Any, device: str) -> None:
    import torch

    inputs = torch.tensor([p + r for p, r in batch], device=device)
    first, chunks = len(batch[0][0]), torch.arange(len(batch[0][1]), device=device) % 2 == 0
    with torch.autocast(device, torch.bfloat16):
        logits = model(input_ids=inputs).logits[:, first - 1 : -1]
        with torch.no_grad():
            anchored = reference(input_ids=inputs).logits[:, first - 1 : -1]
    logp, theirs = (x.float().log_softmax(-1) for x in (logits, anchored))
    nll = -0.5 * logp.gather(2, inputs[:, first:, None])[..., 0] * chunks
    kl = (theirs.exp() * (theirs - logp)).sum(-1) * ~chunks
    ((nll + BETA * kl).sum() / len(batch)).backward()
    model.zero_grad(set_to_none=True)
    if device != "cpu":
        torch.cuda.synchronize()
