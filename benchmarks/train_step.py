"""An optimizer step on SmolLM2 against TRL's DistillationTrainer: same model, batch and objective.

train_step_trl       seconds of forward, loss, backward, clipping and AdamW; reverse KL to a teacher
                     with other weights, float32 on both sides, no recomputed layers, all in one
                     micro-batch; without generation. Equal learning rate, betas and clipping, which
                     its defaults would set otherwise
step_omniopd_trl     the same, of omniopd: half the tokens weighted, the others anchored to a
                     reference of the same size. The mean of train.norms_every = 16 steps, one of
                     which measures the norm of each term and so goes back twice
step_omniopd_norms   that step alone; peer: a step without it
train_step_trl_loss  the loss of the first step of both, which must agree to 1e-4 of it, as must the
                     gradients to 1e-3 of theirs

Ours takes `pipeline.training.gradients.gradients` and `pipeline.training.optimizer`; TRL's trainer
its `training_step` on the batch that its own generation would have given.
"""

import functools
from pathlib import Path
from typing import Any

from benchmarks import student
from benchmarks.measure import Row, row, seconds, threads
from pipeline.config.method import NORMS_EVERY

BATCH, TOKENS = 4, 128
REPEATS = 5
RATE, BETAS, CLIP = 1e-6, (0.9, 0.98), 1.0


def rows(scratch: Path) -> list[Row]:
    from pipeline.config.params import Runtime
    from pipeline.engines.torch_setup import start

    start(Runtime(threads=threads()))
    from pipeline.engines.hf import load

    folder = student.checkpoint(scratch)
    teacher, mine, trained = (load(folder) for _ in range(3))
    _perturb(teacher.model)
    batch = _batch(mine)
    ours = functools.partial(_ours, mine, teacher, batch, _optimizer(mine.model))
    told = (mine, teacher, batch, _optimizer(mine.model))
    two, measured = (functools.partial(_two_terms, *told, norms=x) for x in (False, True))
    trl = _trl(trained, teacher, batch, scratch)
    first, other = ours(), trl()  # also warms both
    _agree(first, other)
    two(), measured()
    taken = [[seconds(f) for f in (ours, two, measured, trl)] for _ in range(REPEATS)]
    one, plain, norms, theirs = zip(*taken, strict=True)
    pairs = zip(plain, norms, strict=True)
    both = [((NORMS_EVERY - 1) * a + b) / NORMS_EVERY for a, b in pairs]
    words = "TRL's DistillationTrainer"
    return [
        row("train_step_trl", "s", "lower", words, one, theirs),
        row("step_omniopd_trl", "s", "lower", f"{words}, one term", both, theirs),
        row("step_omniopd_norms", "s", "lower", "without norms", norms, plain),
        row("train_step_trl_loss", "nats per token", "lower", words, [first[0]], [other[0]]),
    ]


def _agree(ours: tuple[float, list[Any]], trl: tuple[float, list[Any]]) -> None:
    assert abs(ours[0] - trl[0]) < 1e-4 * trl[0], (ours[0], trl[0])
    for a, b in zip(ours[1], trl[1], strict=True):
        assert float((a - b).norm()) <= 1e-3 * float(b.norm())


def _perturb(model: Any) -> None:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.05)
    model.requires_grad_(False)


def _batch(policy: Any) -> list[tuple[list[int], list[int]]]:
    """Prompts, and other problems' texts as responses of equal length."""
    problems = student.problems(60)
    stream = [t for x in problems[20:] for t in policy.tokenizer.encode(x.prompt)]
    responses = [stream[i * TOKENS : (i + 1) * TOKENS] for i in range(BATCH)]
    return [(policy.prompt_ids(problems[i].messages), r) for i, r in enumerate(responses)]


def _optimizer(model: Any) -> Any:
    from pipeline.training.optimizer import Optimizer

    return Optimizer(model, RATE, BETAS, 0, CLIP)


def _ours(policy: Any, teacher: Any, batch: Any, optimizer: Any) -> tuple[float, list[Any]]:
    import numpy as np

    from pipeline.config.params import Params
    from pipeline.engines.hf import Frozen
    from pipeline.method.objectives import Example, Sequence, opd
    from pipeline.training.gradients import gradients
    from pipeline.training.optimizer_steps import Step

    every, weight = np.ones(TOKENS, bool), np.ones(TOKENS, np.float32)
    examples = [Example([Sequence(p, r, every, weight, ~every, None)]) for p, r in batch]
    step = Step(functools.partial(opd.terms, own=Params()), 0.0, True, BATCH, norms=False)
    sums, found = gradients(policy, Frozen(None, teacher), examples, step)
    optimizer.step(sums.grads)  # clips them in place
    return found["train/loss"], sums.grads


def _two_terms(policy: Any, reference: Any, batch: Any, optimizer: Any, norms: bool) -> None:
    import numpy as np

    from pipeline.engines.hf import Frozen
    from pipeline.method.objectives import Example, Sequence, omniopd
    from pipeline.training.gradients import gradients
    from pipeline.training.optimizer_steps import Step

    chunks, weight = np.arange(TOKENS) % 2 == 0, np.full(TOKENS, 0.5, np.float32)
    examples = [Example([Sequence(p, r, chunks, weight, ~chunks, None)]) for p, r in batch]
    own = omniopd.Settings(beta=0.1, importance_ratio="none")
    step = Step(functools.partial(omniopd.terms, own=own), 0.1, True, BATCH, norms=norms)
    sums, _ = gradients(policy, Frozen(reference, None), examples, step)
    optimizer.step(sums.grads)


def _trl(policy: Any, teacher: Any, batch: Any, scratch: Path) -> Any:
    import torch
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    class Given(DistillationTrainer):
        """Its generation is left out: the batch is there."""

        def _prepare_inputs(self, inputs: Any) -> Any:
            return inputs

    config = DistillationConfig(
        str(scratch / "trl"),
        beta=1.0,
        learning_rate=RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        per_device_train_batch_size=BATCH,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    policy.tokenizer.padding_side = "left"
    trainer = Given(
        model=policy.model,
        teacher_model=teacher.model,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["1+1?"] * BATCH}),
        processing_class=policy.tokenizer,
    )
    width = max(len(p) for p, _ in batch)
    inputs = {
        "prompt_ids": torch.tensor([[policy.ends[0]] * (width - len(p)) + p for p, _ in batch]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p, _ in batch]),
        "completion_ids": torch.tensor([r for _, r in batch]),
        "completion_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
        "num_items_in_batch": torch.tensor(float(BATCH * TOKENS)),
    }
    parameters = list(trainer.model.parameters())
    adam = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, weight_decay=0.0)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1

    def step() -> tuple[float, list[Any]]:
        loss = trainer.training_step(trainer.model, inputs, None)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        grads = [p.grad for p in parameters]
        adam.zero_grad(set_to_none=True)
        return float(loss), grads

    return step
