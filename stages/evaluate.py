"""evaluate: grade a checkpoint on held-out problems, greedy and sampled.

reads   prompts, checkpoint
writes  evals  one row per graded response: one greedy and `samples` sampled for each problem
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline import cells, checkpoints, params, prompts, seeds, tables, tasks
from pipeline.engines.start import start

if TYPE_CHECKING:
    from pipeline.engines.hf import Generated, Policy
    from pipeline.engines.sampling import Sampler
    from pipeline.engines.vllm import Sampled
    from pipeline.engines.vllm_student import Student


class EvaluateParams(params.Params):
    prepare: params.Prepare
    split: str
    problems: params.Count
    samples: params.Count
    temperature: params.Positive
    max_new_tokens: params.Count
    engine: params.Engine = "hf"


def evaluate(
    policy: "Policy | Student",
    asked: list[prompts.Prompt],
    p: EvaluateParams,
    batch_tokens: int,
    counts: dict[str, Any],
) -> pa.Table:
    """Every generation, graded. Problems and seeds are the same whatever the checkpoint.

    `counts` gets the reasons of answers that could not be graded.
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
        contexts_B = [contexts[x.prompt_id] for x, _ in rows]
        stream = _generate(policy, rows, contexts_B, sampler, p.max_new_tokens, batch_tokens)
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


def _generate(
    policy: "Policy | Student",
    rows: list[tuple[prompts.Prompt, int]],
    contexts_B: list[list[int]],
    sampler: "Sampler",
    most: int,
    batch_tokens: int,
) -> "Iterator[tuple[int, Generated | Sampled]]":
    from pipeline.engines.hf import Policy, generate

    names = [("evaluate", x.prompt_id, sample) for x, sample in rows]
    if isinstance(policy, Policy):
        uniforms = [seeds.generator(*name).random(most) for name in names]
        return generate(policy, contexts_B, uniforms, sampler, most, batch_tokens)
    return policy.generate(contexts_B, [seeds.number(*name) for name in names], sampler, most)


@contextmanager
def opened(
    folder: Path, engine: params.Engine, runtime: params.Runtime
) -> "Iterator[Policy | Student]":
    """The checkpoint, ready to sample; what it took is given back at the end."""
    match engine:
        case "hf":
            from pipeline.engines.hf import load

            yield load(folder, runtime.device)
        case "vllm":
            from pipeline.engines.vllm_student import Student

            with Student(folder, runtime) as student:
                yield student


@cells.entry
def main() -> None:
    args = cells.arguments("evaluate", "prompts", "policy")
    p = cells.params("evaluate", args.cell, EvaluateParams)
    with cells.running("evaluate", args) as run:
        runtime = cells.runtime()
        asked = prompts.read(args.prompts, p.split, 0, p.problems)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        with opened(args.policy / "checkpoint", p.engine, runtime) as policy:
            table = evaluate(policy, asked, p, runtime.batch_tokens, run.counts)
        tables.write(table, args.out / "evals.parquet", tables.EVALS)
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = int(np.asarray(table["tokens"]).sum())


if __name__ == "__main__":
    main()
