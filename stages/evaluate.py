"""evaluate: grade a checkpoint on held-out problems, greedy and sampled.

reads   prompts, checkpoint
writes  evals  one row per graded response: one greedy and `samples` sampled for each problem
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import cells, checkpoints, params, prompts, resume, seeds, tables, tasks
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
        contexts_B = [contexts[x.prompt_id] for x, _ in rows]
        how = (sampler, p.max_new_tokens, batch_tokens)
        found_B = _generate(policy, rows, contexts_B, how, decoding, kept)
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
    policy: "Policy | Student",
    rows: list[tuple[prompts.Prompt, int]],
    contexts_B: list[list[int]],
    how: "tuple[Sampler, int, int]",
    decoding: str,
    kept: resume.State | None,
) -> list["Generated"]:
    from pipeline.engines.hf import Policy, generate, generated

    names = [("evaluate", x.prompt_id, sample) for x, sample in rows]
    sampler, most, batch_tokens = how

    def sampled(done: Collection[int]) -> "Iterator[tuple[int, Generated | Sampled]]":
        if isinstance(policy, Policy):
            uniforms = [seeds.generator(*name).random(most) for name in names]
            return generate(policy, contexts_B, uniforms, sampler, most, batch_tokens, done)
        numbers = [seeds.number(*name) for name in names]
        return policy.generate(contexts_B, numbers, sampler, most, done)

    def stream(done: Collection[int]) -> Iterator[tuple[int, resume.Row]]:
        for i, one in sampled(done):
            yield i, (np.asarray(one.token_ids),)

    found = resume.rows(kept, decoding, len(contexts_B), stream)
    return [generated(policy.eos, found[i][0].tolist()) for i in range(len(contexts_B))]


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
    runtime = cells.runtime()
    with resume.state("evaluate", args, runtime) as kept, cells.running("evaluate", args) as run:
        asked = prompts.read(args.prompts, p.split, 0, p.problems)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        with opened(args.policy / "checkpoint", p.engine, runtime) as policy:
            table = evaluate(policy, asked, p, runtime.batch_tokens, run.counts, kept)
        tables.write(table, args.out / "evals.parquet", tables.EVALS)
        run.earlier_seconds = kept.earlier
        run.rows_in, run.rows_out = len(asked), table.num_rows
        run.counts["student_tokens"] = int(np.asarray(table["tokens"]).sum())


if __name__ == "__main__":
    main()
