"""train: one round of optimizer steps on the round's evidence.

reads   policy      the round's checkpoint and optimizer moments
        rollouts    what it wrote (prompts and answers instead for sft, beside them for soda;
                    repaired by the teacher for repair)
        targets     chunk weights (omniopd); forks and answers for imitate-forks, preference
        answers     of the forks, for baseline teacher-agreement, and where experiment.match counts
                    what the evidence took
        reference   the round-0 checkpoint for the KL anchor (omniopd, imitate-forks, opd-forks,
                    preference, one-sided), or to compare with (preference, soda)
        teacher     a checkpoint with logits (opd, opd-sampled, gkd, opd-forks)
writes  checkpoint, optimizer.safetensors, metrics.jsonl (one line per optimizer step); of a round
        without a signal the first two are those that it read, byte for byte
"""

import argparse
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipeline.config import params, params_file
from pipeline.config.method import Shared
from pipeline.core.errors import too_long
from pipeline.engines import checkpoints
from pipeline.engines.torch_setup import start
from pipeline.method.objectives import Objective, declared
from pipeline.stage import cells, resume
from pipeline.training import collapse, launcher, no_signal, process_group, trackers
from pipeline.training.evidence import train_params
from pipeline.training.evidence.gathering import Work, gather
from pipeline.training.evidence.train_params import TrainParams

if TYPE_CHECKING:
    import torch

    from pipeline.engines.hf import Frozen, Policy
    from pipeline.training import optimizer_steps


def train(
    student: "Policy",
    frozen: "Frozen",
    work: Work,
    p: TrainParams,
    objective: Objective,
    args: argparse.Namespace,
    state: resume.State | None,
    group: process_group.Group,
    tell: trackers.Tell,
) -> list[no_signal.Metrics]:
    """Optimise `student` from the last step in `state`; the metrics of each step."""
    from pipeline.training import relative, students
    from pipeline.training.gradients import gradients, recompute
    from pipeline.training.optimizer import Optimizer

    policy, runtime = args.policy / "checkpoint", params_file.runtime()
    if runtime.gradient_checkpointing:
        recompute(student.model)
    student, frozen = group.spread(student, frozen)
    how = (p.lr, p.betas, p.warmup_steps, p.max_grad_norm, p.moment_bits, group)
    optimizer = Optimizer(student.model, *how)
    carry = p.optimizer == "carry"
    optimizer.load(args.policy / "optimizer.safetensors", moments=carry)
    step = _step(work, p, students.dtype(policy), runtime, group)
    total, quiet = len(work.steps), None if group.first else True
    done = len(metrics := students.take_up(optimizer, state, group, total))
    bar = tqdm(work.steps[done:], "train", total, initial=done, unit="step", disable=quiet)
    for number, batch in enumerate(bar, done):
        examples = [work.examples[i] for i in batch]
        if work.relative:
            examples = relative.weighed(student, frozen, examples, step, work.relative)
        norms = p.norms_every > 0 and number % p.norms_every == 0
        sums, found = gradients(student, frozen, examples, replace(step, norms=norms))
        taken = no_signal.step(optimizer, sums, found, examples, objective)
        metrics.append({"round": p.round, "step": number, **taken})
        tell((p.round - 1) * total + number, metrics[-1])
        collapse.of_step(args, metrics[-1])
        students.keep_step(optimizer, state, group, metrics)
    moved, made = no_signal.of_round(metrics) is None, (p.adapter, p.seed)
    students.write(student, policy, optimizer, carry, args.out, group, made, moved)
    return metrics


def _step(
    work: Work,
    p: TrainParams,
    dtype: "torch.dtype",
    runtime: params.Runtime,
    group: process_group.Group,
) -> "optimizer_steps.Step":
    import torch

    from pipeline.training import optimizer_steps

    return optimizer_steps.Step(
        work.terms,
        getattr(p, "beta", 0.0),  # of objectives with a second term
        p.reduce == "token_mean",
        p.micro_batch_size,
        bfloat16=dtype == torch.bfloat16,
        batch_tokens=runtime.batch_tokens,
        group=group,
    )


def _trained(
    p: TrainParams, objective: Objective, args: argparse.Namespace, state: resume.State | None
) -> tuple[Work, list[no_signal.Metrics]]:
    """Train; return what was trained on and each step's metrics, in each process of the group."""
    checkpoints.check(args.policy / "checkpoint")
    start(runtime := params_file.runtime())
    from pipeline.training import students

    with launcher.group(runtime) as group:
        folders = (args.policy, args.reference, args.teacher)
        how = (p.adapter, p.seed, group.device(runtime.device))
        student, frozen = students.policies(*folders, *how)
        work = gather(p, objective, args, student)
        for read in (student, frozen.reference, frozen.teacher):
            if read and read.context and work.examples.longest > read.context:
                remedy = "Lower rollout.max_new_tokens, or use a model that reads more."
                where = f"train: the longest row, read by {read.model.name_or_path}"
                raise too_long(where, work.examples.longest, read.context, remedy)
        with _told(p, args, runtime, group) as tell:
            return work, train(student, frozen, work, p, objective, args, state, group, tell)


def _told(
    p: TrainParams, args: argparse.Namespace, runtime: params.Runtime, group: process_group.Group
) -> "contextlib.AbstractContextManager[trackers.Tell]":
    """What each step's metrics are sent to beside metrics.jsonl."""
    names = (runtime.log_to,) if isinstance(runtime.log_to, str) else runtime.log_to
    chain = f"{p.objective} seed {p.seed}"
    run = trackers.Run(
        Path.cwd().name, chain, f"round {p.round} {args.cell}", p.model_dump(mode="json")
    )
    return trackers.tracking(names if group.first else (), run)


def _tell(run: cells.Run, work: Work, metrics: list[no_signal.Metrics]) -> None:
    """Write into run.json what it holds of the work."""
    run.rows_in, run.rows_out = len(work.examples), sum(map(len, work.steps))
    run.counts |= {"steps_per_round": len(metrics), "left_out": work.left_out}
    run.counts["clipped_share"] = sum(m["train/clipped"] for m in metrics) / len(metrics)
    taken = [m for m in metrics if no_signal.LINE not in m]
    run.counts["student_tokens"] = int(
        sum(m["train/signal_tokens"] + m["train/anchor_tokens"] for m in taken)
    )
    run.counts |= (work.matched or {}) | no_signal.counts(metrics)


@cells.entry
def main() -> None:
    inputs = ("policy", "rollouts?", "targets?", "forks?", "answers?", "prompts?")
    args = cells.arguments("train", *inputs, "reference?", "teacher?")
    objective = declared(cells.cell("train", args.cell)[1]["params"]["objective"])
    p = cells.params("train", args.cell, train_params.of(objective))
    runtime = params_file.runtime()
    processes = params_file.free("train", Shared).processes
    if launcher.launched("train", args.cell, processes, runtime.device, p.moment_bits):
        return
    if process_group.follows():
        _trained(p, objective, args, None)
        return
    signs = collapse.of_round(args)
    with resume.state("train", args, runtime) as state, cells.running("train", args) as run:
        work, metrics = _trained(p, objective, args, state)
        lines = [json.dumps(line, allow_nan=False) for line in metrics]
        cells.write_text(args.out / "metrics.jsonl", "\n".join(lines) + "\n")
        _tell(run, work, metrics)
        signs |= collapse.drift(metrics)
        run.counts |= {f"collapse/{name}": round(value, 6) for name, value in signs.items()}
        no_signal.tell(args.cell, metrics, work.left_out)
        run.earlier_seconds = state.earlier


if __name__ == "__main__":
    main()
