"""evaluate: grade a checkpoint on held-out problems, greedy and sampled.

reads   prompts, checkpoint
writes  evals  one row per graded response: one greedy and `samples` sampled for each problem
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline import cells, checkpoints, params, prompts, seeds, tables, tasks
from pipeline.engines.start import start

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy


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
) -> pa.Table:
    """Every generation, graded. Problems and seeds are the same whatever the checkpoint.

    `counts` gets the reasons of answers that could not be graded.
    """
    from pipeline.engines.hf import generate
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
        stream = generate(policy, contexts_B, uniforms, sampler, p.max_new_tokens, batch_tokens)
        found = dict(tqdm(stream, total=len(rows), desc=f"evaluate {decoding}", disable=None))
        for i, (problem, sample) in enumerate(rows):
            text = policy.text(found[i].token_ids)
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
                    "finish_reason": found[i].finish_reason,
                    "tokens": len(found[i].token_ids),
                }
            )
    return pa.Table.from_pylist(out, schema=tables.EVALS)


def _uniforms(problem_id: str, sample: int, count: int) -> np.ndarray:
    return seeds.generator("evaluate", problem_id, sample).random(count)


@cells.entry
def main() -> None:
    args = cells.arguments("evaluate", "prompts", "policy")
    p = cells.params("evaluate", args.cell, EvaluateParams)
    with cells.running("evaluate", args) as run:
        runtime = cells.runtime()
        asked = prompts.read(args.prompts, p.split, 0, p.problems)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        from pipeline.engines.hf import load

        policy = load(args.policy / "checkpoint", runtime.device)
        table = evaluate(policy, asked, p, runtime.batch_tokens, run.counts)
        tables.write(table, args.out / "evals.parquet", tables.EVALS)
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = int(np.asarray(table["tokens"]).sum())


if __name__ == "__main__":
    main()
