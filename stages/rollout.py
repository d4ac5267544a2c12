"""rollout: the student answers the round's prompts, then reads its answers exactly.

reads   prompts, the round's checkpoint
writes  rollouts  samples_per_prompt rows per prompt, in prompt and sample order
source  arXiv 2606.01476; entropies and log-probabilities from one teacher-forced pass of the
        same checkpoint over the finished responses, untempered. What engine vllm says of its own
        samples is a diagnostic in run.json; it gives no entropies
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline import cells, checkpoints, params, prompts, seeds, tables, tasks
from pipeline.engines.start import start

if TYPE_CHECKING:
    from pipeline.engines.hf import Generated, Policy
    from pipeline.engines.vllm import Sampled


class RolloutParams(params.Rollout):
    prepare: params.Prepare
    seed: int
    round: params.Count


def rollout(
    policy: "Policy",
    asked: list[prompts.Prompt],
    p: RolloutParams,
    batch_tokens: int,
    counts: dict[str, Any],
    sampled_B: "list[Sampled] | None" = None,
) -> pa.Table:
    """Sample, score and check samples_per_prompt responses to each prompt.

    `counts` gets the reasons of answers that could not be graded, and how far an engine's own
    log-probabilities are from the exact ones. `sampled_B` is what another engine sampled.
    """
    rows = _rows(asked, p)
    contexts = {x.prompt_id: policy.prompt_ids(x.messages) for x in asked}
    contexts_B = [contexts[prompt.prompt_id] for prompt, _ in rows]
    found_B = sampled_B or _generate(policy, rows, contexts_B, p, batch_tokens)
    logps_B, entropies_B = _exact(policy, contexts_B, [f.token_ids for f in found_B], batch_tokens)
    if sampled_B:
        counts |= gaps(sampled_B, logps_B)
    checker = tasks.load(p.prepare)
    out = []
    for (prompt, sample), context, found, logps, entropies in zip(
        rows, contexts_B, found_B, logps_B, entropies_B, strict=True
    ):
        text = policy.text(found.token_ids)
        out.append(
            {
                "rollout_id": f"{prompt.prompt_id}-{sample}",
                "prompt_id": prompt.prompt_id,
                "sample": sample,
                "round": p.round,
                "prompt_token_ids": context,
                "token_ids": found.token_ids,
                "logprobs": logps,
                "entropies": entropies,
                "text": text,
                "finish_reason": found.finish_reason,
                "reward": _reward(checker, prompt, text, counts) if p.prepare.graded else None,
            }
        )
    return pa.Table.from_pylist(out, schema=tables.ROLLOUTS)


def _rows(asked: list[prompts.Prompt], p: RolloutParams) -> list[tuple[prompts.Prompt, int]]:
    return [(prompt, sample) for prompt in asked for sample in range(p.samples_per_prompt)]


def _reward(
    checker: tasks.Task, prompt: prompts.Prompt, text: str, counts: dict[str, Any]
) -> float:
    return float(tasks.grade(checker, prompt.task, text, prompt.answer, counts).correct)


def _generate(
    policy: "Policy",
    rows: list[tuple[prompts.Prompt, int]],
    contexts_B: list[list[int]],
    p: RolloutParams,
    batch_tokens: int,
) -> "list[Generated | Sampled]":
    from pipeline.engines.hf import generate
    from pipeline.engines.sampling import Sampler

    uniforms = [
        seeds.generator(p.seed, "rollout", p.round, prompt.prompt_id, sample).random(
            p.max_new_tokens
        )
        for prompt, sample in rows
    ]
    sampler = Sampler(p.temperature, p.top_p, p.top_k)
    stream = generate(policy, contexts_B, uniforms, sampler, p.max_new_tokens, batch_tokens)
    found = dict(tqdm(stream, total=len(rows), desc="rollout", disable=None))
    return [found[i] for i in range(len(rows))]


def through_vllm(
    folder: Path, asked: list[prompts.Prompt], p: RolloutParams, runtime: params.Runtime
) -> "list[Sampled]":
    """A response for each row, by an engine that has given its memory back when this returns."""
    from pipeline.engines.sampling import Sampler
    from pipeline.engines.vllm_student import Student

    rows, sampler = _rows(asked, p), Sampler(p.temperature, p.top_p, p.top_k)
    numbers = [seeds.number(p.seed, "rollout", p.round, x.prompt_id, i) for x, i in rows]
    with Student(folder, runtime, reported=sampler) as student:
        contexts = {x.prompt_id: student.prompt_ids(x.messages) for x in asked}
        contexts_B = [contexts[prompt.prompt_id] for prompt, _ in rows]
        stream = student.generate(contexts_B, numbers, sampler, p.max_new_tokens)
        found = dict(tqdm(stream, total=len(rows), desc="rollout", disable=None))
    return [found[i] for i in range(len(rows))]


def gaps(sampled_B: "list[Sampled]", logps_B: list[np.ndarray]) -> dict[str, float]:
    """Mean and largest distance (nats) of the engine's log-probabilities from the exact ones."""
    gap_T = np.concatenate(
        [np.abs(np.array(x.logprobs) - logps) for x, logps in zip(sampled_B, logps_B, strict=True)]
    )
    return {"engine_gap_mean": float(gap_T.mean()), "engine_gap_max": float(gap_T.max())}


def _policy(folder: Path, p: RolloutParams, runtime: params.Runtime) -> "Policy":
    """For the exact pass, in the dtype in which the engine sampled: vLLM's on a CPU is float32."""
    import torch

    from pipeline.engines.hf import load

    exact_cpu = p.engine == "vllm" and runtime.device == "cpu"
    return load(folder, runtime.device, torch.float32 if exact_cpu else None)


def _exact(
    policy: "Policy", contexts: list[list[int]], responses: list[list[int]], batch_tokens: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    from pipeline.engines.exact import exact

    stream = exact(policy, contexts, responses, batch_tokens)
    total = len(contexts)
    found = {i: pair for i, *pair in tqdm(stream, total=total, desc="exact pass", disable=None)}
    return [found[i][0] for i in range(total)], [found[i][1] for i in range(total)]


@cells.entry
def main() -> None:
    args = cells.arguments("rollout", "prompts", "policy")
    p = cells.params("rollout", args.cell, RolloutParams)
    with cells.running("rollout", args) as run:
        runtime = cells.runtime()
        first = (p.round - 1) * p.prompts_per_round
        asked = prompts.read(args.prompts, "train", first, p.prompts_per_round)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        folder = args.policy / "checkpoint"
        sampled = through_vllm(folder, asked, p, runtime) if p.engine == "vllm" else None
        policy = _policy(folder, p, runtime)
        table = rollout(policy, asked, p, runtime.batch_tokens, run.counts, sampled)
        tables.write(table, args.out / "rollouts.parquet", tables.ROLLOUTS)
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = len(table["token_ids"].combine_chunks().values)


if __name__ == "__main__":
    main()
