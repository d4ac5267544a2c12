"""evaluate: grade a checkpoint on held-out problems, greedy and sampled.

reads   prompts, checkpoint
writes  evals  one row per graded response: one greedy and `samples` sampled for each problem
"""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import cells, checkpoints, params, prompts, resume, seeds, tables, tasks
from pipeline.engines.start import start

if TYPE_CHECKING:
    from pipeline.engines.hf import Generated, Policy
    from pipeline.engines.sampling import Sampler


class EvaluateParams(params.Params):
    prepare: params.Prepare
    split: str
    problems: params.Count
    samples: params.Count
    temperature: params.Positive
    max_new_tokens: params.Count


def evaluate(
    policy: "Policy",
    asked: list[prompts.Prompt],
    p: EvaluateParams,
    batch_tokens: int,
    counts: dict[str, Any],
    kept: resume.State | None = None,
) -> pa.Table:
    """Every generation, graded. Problems and seeds are the same whatever the checkpoint.

    `counts` gets the reasons of answers that could not be graded. What is `kept` of a killed run
    is not done again.
    """
    from pipeline.engines.sampling import GREEDY, Sampler

    checker = tasks.load(p.prepare)
    contexts = {x.prompt_id: policy.prompt_ids(x.messages) for x in asked}
    out = []
    for decoding, samples, sampler in (
        ("greedy", 1, GREEDY),
        ("sampled", p.samples, Sampler(p.temperature)),
    ):
        rows = [(x, sample) for x in asked for sample in range(samples)]
        uniforms = [_uniforms(x.prompt_id, sample, p.max_new_tokens) for x, sample in rows]
        contexts_B = [contexts[x.prompt_id] for x, _ in rows]
        how = (sampler, p.max_new_tokens, batch_tokens)
        found_B = _generate(policy, contexts_B, uniforms, how, decoding, kept)
        for (problem, sample), found in zip(rows, found_B, strict=True):
            text = policy.text(found.token_ids)
            checked = tasks.grade(checker, problem.task, text, problem.answer, counts)
            out.append(
                {
                    "task": problem.task,
                    "problem_id": problem.prompt_id,
                    "sample": sample,
                    "decoding": decoding,
                    "response": text,
                    "extracted": checked.extracted,
                    "correct": checked.correct,
                    "finish_reason": found.finish_reason,
                    "tokens": len(found.token_ids),
                }
            )
    return pa.Table.from_pylist(out, schema=tables.EVALS)


def _generate(
    policy: "Policy",
    contexts_B: list[list[int]],
    uniforms: list[np.ndarray],
    how: "tuple[Sampler, int, int]",
    decoding: str,
    kept: resume.State | None,
) -> list["Generated"]:
    from pipeline.engines.hf import generate, generated

    def stream(done: Collection[int]) -> Iterator[tuple[int, resume.Row]]:
        for i, one in generate(policy, contexts_B, uniforms, *how, done):
            yield i, (np.asarray(one.token_ids),)

    found = resume.rows(kept, decoding, len(contexts_B), stream)
    return [generated(policy, found[i][0].tolist()) for i in range(len(contexts_B))]


def _uniforms(problem_id: str, sample: int, count: int) -> np.ndarray:
    return seeds.generator("evaluate", problem_id, sample).random(count)


@cells.entry
def main() -> None:
    args = cells.arguments("evaluate", "prompts", "policy")
    p = cells.params("evaluate", args.cell, EvaluateParams)
    runtime = cells.runtime()
    with resume.state("evaluate", args, runtime) as kept, cells.running("evaluate", args) as run:
        asked = prompts.read(args.prompts, p.split, 0, p.problems)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        from pipeline.engines.hf import load

        policy = load(args.policy / "checkpoint", runtime.device)
        table = evaluate(policy, asked, p, runtime.batch_tokens, run.counts, kept)
        tables.write(table, args.out / "evals.parquet", tables.EVALS)
        run.earlier_seconds = kept.earlier
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = int(np.asarray(table["tokens"]).sum())


if __name__ == "__main__":
    main()
