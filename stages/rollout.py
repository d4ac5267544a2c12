"""rollout: the student answers the round's prompts, then reads its answers exactly.

reads   prompts, the round's checkpoint
writes  rollouts  samples_per_prompt rows per prompt, in prompt and sample order
source  arXiv 2606.01476; entropies and log-probabilities from one teacher-forced pass of the
        same checkpoint over the finished responses, untempered
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import cells, checkpoints, params, prompts, resume, seeds, tables, tasks
from pipeline.engines.start import start

if TYPE_CHECKING:
    from pipeline.engines.hf import Generated, Policy


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
    kept: resume.State | None = None,
) -> pa.Table:
    """Sample, score and check samples_per_prompt responses to each prompt.

    `counts` gets the reasons of answers that could not be graded. What is `kept` of a killed run
    is not done again.
    """
    rows = [(prompt, sample) for prompt in asked for sample in range(p.samples_per_prompt)]
    contexts = {x.prompt_id: policy.prompt_ids(x.messages) for x in asked}
    contexts_B = [contexts[prompt.prompt_id] for prompt, _ in rows]
    found_B = _generate(policy, rows, contexts_B, p, batch_tokens, kept)
    responses_B = [found.token_ids for found in found_B]
    exact_B = _exact(policy, contexts_B, responses_B, batch_tokens, kept)
    checker = tasks.load(p.prepare)
    out = []
    for (prompt, sample), context, found, (logps, entropies) in zip(
        rows, contexts_B, found_B, exact_B, strict=True
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
    kept: resume.State | None,
) -> list["Generated"]:
    from pipeline.engines.hf import generate, generated
    from pipeline.engines.sampling import Sampler

    uniforms = [
        seeds.generator(p.seed, "rollout", p.round, prompt.prompt_id, sample).random(
            p.max_new_tokens
        )
        for prompt, sample in rows
    ]
    sampler = Sampler(p.temperature, p.top_p, p.top_k)
    asked = (policy, contexts_B, uniforms, sampler, p.max_new_tokens, batch_tokens)

    def stream(done: Collection[int]) -> Iterator[tuple[int, resume.Row]]:
        for i, one in generate(*asked, done):
            yield i, (np.asarray(one.token_ids),)

    found = resume.rows(kept, "generate", len(rows), stream)
    return [generated(policy, found[i][0].tolist()) for i in range(len(rows))]


def _exact(
    policy: "Policy",
    contexts: list[list[int]],
    responses: list[list[int]],
    batch_tokens: int,
    kept: resume.State | None,
) -> list[resume.Row]:
    from pipeline.engines.exact import exact

    def stream(done: Collection[int]) -> Iterator[tuple[int, resume.Row]]:
        for i, *pair in exact(policy, contexts, responses, batch_tokens, done):
            yield i, tuple(pair)

    found = resume.rows(kept, "exact", len(contexts), stream)
    return [found[i] for i in range(len(contexts))]


@cells.entry
def main() -> None:
    args = cells.arguments("rollout", "prompts", "policy")
    p = cells.params("rollout", args.cell, RolloutParams)
    runtime = cells.runtime()
    with resume.state("rollout", args, runtime) as kept, cells.running("rollout", args) as run:
        first = (p.round - 1) * p.prompts_per_round
        asked = prompts.read(args.prompts, "train", first, p.prompts_per_round)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        from pipeline.engines.hf import load

        policy = load(args.policy / "checkpoint", runtime.device)
        table = rollout(policy, asked, p, runtime.batch_tokens, run.counts, kept)
        tables.write(table, args.out / "rollouts.parquet", tables.ROLLOUTS)
        run.earlier_seconds = kept.earlier
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = len(table["token_ids"].combine_chunks().values)


if __name__ == "__main__":
    main()
