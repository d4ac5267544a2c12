"""evaluate: grade a checkpoint on held-out problems, greedy and sampled.

reads   prompts, checkpoint
writes  evals  one row per graded response: one greedy and `samples` sampled for each problem
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import tasks
from pipeline.config import params, params_file
from pipeline.config.method import Graded
from pipeline.config.problems import Prepare
from pipeline.core import seeds
from pipeline.core.disk_rows import Each, Row, integers
from pipeline.data import prompts, schemas, tables
from pipeline.engines import checkpoints
from pipeline.engines.chat import prerendered
from pipeline.engines.torch_setup import start
from pipeline.stage import cells, resume

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy
    from pipeline.engines.sampling import Generated, Sampler
    from pipeline.engines.vllm.engine import Sampled
    from pipeline.engines.vllm.vllm_student import Student


class EvaluateParams(Graded):
    prepare: Prepare
    engine: params.Engine = "hf"


def evaluate(
    policy: "Policy | Student",
    asked: Sequence[prompts.Prompt],
    p: EvaluateParams,
    batch_tokens: int,
    counts: dict[str, Any],
    kept: resume.State | None = None,
) -> Iterator[pa.Table]:
    """Every generation, graded, some rows at a time. Problems and seeds are the same whatever the
    checkpoint.

    `counts` gets the reasons of answers that could not be graded. What is `kept` of a killed run
    is not done again. Tokens wait on disk: in memory 20 bytes a row.
    """
    from pipeline.engines.sampling import GREEDY, Sampler

    prerendered.refuse_all(asked, policy.tokenizer)
    contexts = prompts.token_ids(asked, policy, p.max_new_tokens)
    for decoding, samples, sampler in (
        ("greedy", 1, GREEDY),
        ("sampled", p.samples, Sampler(p.temperature)),
    ):
        contexts_B = Each(contexts, integers, samples)
        names = functools.partial(_names, asked, samples)
        how = (sampler, p.max_new_tokens, batch_tokens)
        found_B = _generate(policy, names, contexts_B, how, decoding, kept)
        rows = _graded(policy, asked, found_B, p, decoding, samples, counts)
        yield from tables.parts(rows, schemas.EVALS)


def _names(asked: Sequence[prompts.Prompt], samples: int, i: int) -> tuple[str | int, ...]:
    return "evaluate", asked[i // samples].prompt_id, i % samples


def _graded(
    policy: "Policy | Student",
    asked: Sequence[prompts.Prompt],
    found_B: "Sequence[Generated]",
    p: EvaluateParams,
    decoding: str,
    samples: int,
    counts: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    checker = tasks.load(p.prepare)
    for i, found in enumerate(found_B):
        problem, text = asked[i // samples], policy.decode(found.token_ids)
        checked = tasks.grade(checker, problem.task, text, problem.answer, counts)
        yield {
            "task": problem.task,
            "problem_id": problem.prompt_id,
            "sample": i % samples,
            "decoding": decoding,
            "response": text,
            "extracted": checked.extracted,
            "correct": checked.correct,
            "finish_reason": found.finish_reason,
            "tokens": len(found.token_ids),
        }


def _generate(
    policy: "Policy | Student",
    names: Callable[[int], tuple[str | int, ...]],
    contexts_B: Sequence[list[int]],
    how: "tuple[Sampler, int, int]",
    decoding: str,
    kept: resume.State | None,
) -> "Sequence[Generated]":
    from pipeline.engines.hf import Policy, generate
    from pipeline.engines.sampling import generated

    sampler, most, batch_tokens = how

    def sampled(done: Collection[int]) -> "Iterator[tuple[int, Generated | Sampled]]":
        if isinstance(policy, Policy):
            uniforms = seeds.Uniforms(len(contexts_B), most, names)
            return generate(policy, contexts_B, uniforms, sampler, most, batch_tokens, done)
        numbers = Each(range(len(contexts_B)), lambda i: seeds.number(*names(i)))
        return policy.generate(contexts_B, numbers, sampler, most, done)

    def stream(done: Collection[int]) -> Iterator[tuple[int, Row]]:
        for i, one in sampled(done):
            yield i, (np.asarray(one.token_ids, np.int32),)

    found = resume.rows(kept, decoding, len(contexts_B), stream)
    return Each(found, lambda row: generated(policy.ends, integers(row)))


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
            from pipeline.engines.vllm.vllm_student import Student

            with Student(folder, runtime) as student:
                yield student


@cells.entry
def main() -> None:
    args = cells.arguments("evaluate", "prompts", "policy")
    p = cells.params("evaluate", args.cell, EvaluateParams)
    runtime = params_file.runtime()
    with resume.state("evaluate", args, runtime) as kept, cells.running("evaluate", args) as run:
        asked = prompts.read(args.prompts, p.split, 0, p.problems)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        run.rows_in, tokens = len(asked), 0
        with (
            opened(args.policy / "checkpoint", p.engine, runtime) as policy,
            tables.growing(args.out / "evals.parquet", schemas.EVALS) as add,
        ):
            for table in evaluate(policy, asked, p, runtime.batch_tokens, run.counts, kept):
                add(table)
                run.rows_out += table.num_rows
                tokens += int(np.asarray(table["tokens"]).sum())
        run.earlier_seconds = kept.earlier
        run.counts["student_tokens"] = tokens


if __name__ == "__main__":
    main()
