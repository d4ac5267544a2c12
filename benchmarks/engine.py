"""Engines of vLLM that stay: how many are started for rounds of one arm, and what a swap saves.

engine_starts       engines that are started while ROUNDS rounds sample and are evaluated, each
                    round with other weights; peer: an engine for each of these stages
engine_swap         seconds in which a running engine takes other weights; peer: from the start of a
                    process until it has its first
engine_swap_proved  the same with the proof: the checkpoint is read by transformers too, and a
                    continuation of a fixed prompt is compared; peer: the same

SmolLM2-135M in float32, one thread, as of stages of one run: `lending` is what `omniopd run` and
`repro` have.
"""

import os
from pathlib import Path
from typing import Any

from benchmarks import student
from benchmarks.measure import Row, row, seconds

ROUNDS = 3


def rows(scratch: Path) -> list[Row]:
    from pipeline.config.params import Runtime
    from pipeline.engines.torch_setup import start
    from pipeline.engines.vllm.resident import lending

    runtime = Runtime()
    start(runtime)
    checkpoints = [student.checkpoint(scratch)]
    checkpoints += [_moved(checkpoints[0], scratch / f"round-{i}") for i in range(1, ROUNDS)]
    with lending() as lent:
        os.environ.update(lent)
        starts = 0
        begun, swaps, proved = list[float](), list[float](), list[float]()
        for checkpoint in checkpoints:
            for stage in ("rollout", "evaluate"):
                taken, swap, counts = _opened(checkpoint, runtime)
                starts += counts["engine_starts"]
                if counts["engine_starts"]:
                    begun.append(taken)
                if counts["engine_swaps"]:
                    swaps.append(swap)
                    proved.append(taken)
                assert stage == "rollout" or not counts["engine_swaps"], "its weights were there"
    words, stages = "from a process' start", 2 * ROUNDS
    peer = begun * len(swaps)
    return [
        row("engine_starts", "engines", "lower", "one for each stage", [starts], [stages]),
        row("engine_swap", "s", "lower", words, swaps, peer),
        row("engine_swap_proved", "s", "lower", words, proved, peer),
    ]


def _opened(checkpoint: Path, runtime: Any) -> tuple[float, float, dict[str, int]]:
    """Seconds until a stage has its student in vLLM, those of a swap in it, and counts of it."""
    from pipeline.engines.vllm.vllm_student import Student

    found: list[Student] = []
    taken = seconds(lambda: found.append(Student(checkpoint, runtime, exact=True)))
    with found[0] as opened:
        return taken, opened.swap_seconds, opened.counts


def _moved(checkpoint: Path, to: Path) -> Path:
    """The weights a step of training further."""
    import torch

    from pipeline.engines.hf import load, save

    policy = load(checkpoint)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    save(policy.model, policy.tokenizer, to, torch.float32)
    generation = "generation_config.json"
    (to / generation).write_bytes((checkpoint / generation).read_bytes())
    return to
