"""rollout: the student answers the round's prompts, then reads its answers exactly.

reads   prompts, the round's checkpoint; where prepare.responses, another trainer's rollouts
writes  rollouts  samples_per_prompt rows per prompt, in prompt and sample order
source  arXiv 2606.01476; entropies and log-probabilities are untempered, of the full vocabulary:
        from one teacher-forced pass of the same checkpoint over the finished responses or, with
        rollout.exact engine, as vLLM had them when it sampled, some rows checked by that pass
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import tasks
from pipeline.config import params, params_file
from pipeline.core import seeds
from pipeline.core.disk_rows import Each, Row, Spool, integers
from pipeline.core.errors import UserError
from pipeline.data import prompts, schemas, tables
from pipeline.engines import checkpoints
from pipeline.engines.chat import prerendered
from pipeline.engines.torch_setup import start
from pipeline.stage import ahead, cells, resume, rollout_rows
from pipeline.stage.rollout_rows import Hand, RolloutParams

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy
    from pipeline.engines.sampling import Generated
    from pipeline.engines.vllm.engine import Sampled


def rollout(
    policy: "Policy",
    asked: Sequence[prompts.Prompt],
    p: RolloutParams,
    batch_tokens: int,
    counts: dict[str, Any],
    kept: resume.State | None = None,
    sampled_B: "Sequence[Sampled] | None" = None,
    buyer: ahead.Buyer | None = None,
) -> Iterator[pa.Table]:
    """Sample, score and check samples_per_prompt responses to each prompt; some rows at a time.

    `counts` gets reasons of answers that could not be graded, and how far an engine's own values
    are from the exact ones. `sampled_B`: another engine sampled it, or a teacher repaired it. What
    is `kept` of a killed run is not done again. Tokens wait on disk: in memory 50 bytes a row. Rows
    are handed to the `buyer` as soon as their entropies are known.
    """
    prerendered.refuse_all(asked, policy.tokenizer)
    contexts = prompts.token_ids(asked, policy, p.max_new_tokens)
    contexts_B = Each(contexts, integers, p.samples_per_prompt)
    hand = rollout_rows.handing(buyer, policy, asked, contexts_B, p)
    found_B = sampled_B or _generate(policy, asked, contexts_B, p, batch_tokens, kept, hand)
    if sampled_B and p.exact == "engine":
        values_B = _of_engine(policy, contexts_B, sampled_B, p, batch_tokens, counts, kept)
    else:
        responses_B = Each(found_B, lambda response: response.token_ids)
        exact_B = _exact(policy, contexts_B, responses_B, batch_tokens, kept, hand)
        values_B = Each(range(len(exact_B)), lambda i: exact_B[i])
        if sampled_B and p.engine == "vllm":
            from pipeline.method.elsewhere import of_samples

            counts |= of_samples(sampled_B, values_B, policy.decode)
    if buyer is not None and hand is not None:
        for i in sorted(set(range(len(found_B))) - buyer.final):  # those of a killed run
            hand(i, found_B[i].token_ids, values_B[i][1], True)
    rows = _described(policy, asked, contexts_B, found_B, values_B, p, counts)
    return tables.parts(rows, schemas.ROLLOUTS)


def _of_engine(
    policy: "Policy",
    contexts_B: Sequence[list[int]],
    sampled_B: "Sequence[Sampled]",
    p: RolloutParams,
    batch_tokens: int,
    counts: dict[str, Any],
    kept: resume.State | None,
) -> "Sequence[Row]":
    """The engine's own values, after some rows were read once more. Raises UserError."""
    from pipeline.method.elsewhere import chosen, of_samples, refuse_far

    rows = chosen(len(sampled_B), p.samples_per_prompt, p.seed, "rollout-check", p.round)
    contexts, some = [contexts_B[i] for i in rows], [sampled_B[i] for i in rows]
    exact_B = _exact(policy, contexts, [one.token_ids for one in some], batch_tokens, None)
    counts |= of_samples(some, [exact_B[i] for i in range(len(rows))], policy.decode)
    counts["engine_checked_rows"] = len(rows)
    try:
        refuse_far(counts, len(rows), str(policy.model.dtype).removeprefix("torch."))
    except UserError:
        if kept is not None:
            kept.remove()  # or the next run would go on from it
        raise
    return Each(sampled_B, lambda one: (np.asarray(one.logprobs), np.asarray(one.entropies)))


def _described(
    policy: "Policy",
    asked: Sequence[prompts.Prompt],
    contexts_B: Sequence[list[int]],
    found_B: "Sequence[Generated | Sampled]",
    values_B: Sequence[Row],
    p: RolloutParams,
    counts: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    checker = tasks.load(p.prepare)
    for i, (context, response) in enumerate(zip(contexts_B, found_B, strict=True)):
        prompt, text = asked[i // p.samples_per_prompt], policy.decode(response.token_ids)
        logps, entropies = values_B[i]
        row = rollout_rows.row(asked, p, i, context, response.token_ids, entropies, text)
        yield row | {
            "logprobs": logps,
            "finish_reason": response.finish_reason,
            "reward": _reward(checker, prompt, text, counts) if p.prepare.graded else None,
        }


def _names(asked: Sequence[prompts.Prompt], p: RolloutParams, i: int) -> tuple[str | int, ...]:
    """The names that row i's random numbers belong to."""
    prompt, sample = asked[i // p.samples_per_prompt], i % p.samples_per_prompt
    return p.seed, "rollout", p.round, prompt.prompt_id, sample


def _reward(checker: tasks.Task, prompt: prompts.Prompt, text: str, counts: Any) -> float:
    return float(tasks.grade(checker, prompt.task, text, prompt.answer, counts).correct)


def _generate(
    policy: "Policy",
    asked: Sequence[prompts.Prompt],
    contexts_B: Sequence[list[int]],
    p: RolloutParams,
    batch_tokens: int,
    kept: resume.State | None,
    hand: Hand | None,
) -> "Sequence[Generated | Sampled]":
    import torch

    from pipeline.engines.hf import generate
    from pipeline.engines.sampling import Sampler, Watch, generated

    names = functools.partial(_names, asked, p)
    uniforms = seeds.Uniforms(len(contexts_B), p.max_new_tokens, names)
    sampler = Sampler(p.temperature, p.top_p, p.top_k)
    how = (policy, contexts_B, uniforms, sampler, p.max_new_tokens, batch_tokens)
    # coarser ones differ from those of the exact pass by more than rounding: other forks
    close = policy.model.dtype == torch.float32
    watch = Watch(hand) if hand is not None and close else None

    def stream(done: Collection[int]) -> Iterator[tuple[int, Row]]:
        for i, one in generate(*how, done, watch):
            yield i, (np.asarray(one.token_ids, np.int32),)

    sampled = resume.rows(kept, "generate", len(contexts_B), stream)
    return Each(sampled, lambda row: generated(policy.ends, integers(row)))


def through_vllm(
    folder: Path,
    asked: Sequence[prompts.Prompt],
    p: RolloutParams,
    runtime: params.Runtime,
    counts: dict[str, Any],
    kept: resume.State | None = None,
    buyer: ahead.Buyer | None = None,
) -> "Sequence[Sampled]":
    """A response for each row, by an engine that has given its memory back when this returns.

    `counts` gets the tokens of its prompts, and those of them that its prefix cache held.
    """
    from pipeline.engines.sampling import Sampler, generated
    from pipeline.engines.vllm.engine import Sampled
    from pipeline.engines.vllm.vllm_student import Student

    sampler = Sampler(p.temperature, p.top_p, p.top_k)
    with Student(folder, runtime, exact=True) as student:
        prerendered.refuse_all(asked, student.tokenizer)
        contexts = prompts.token_ids(asked, student, p.max_new_tokens)
        contexts_B = Each(contexts, integers, p.samples_per_prompt)
        rows = range(len(contexts_B))
        numbers = Each(rows, lambda i: seeds.number(*_names(asked, p, i)))
        last_word = p.exact == "engine"
        hand = rollout_rows.handing(buyer if last_word else None, student, asked, contexts_B, p)

        def stream(done: Collection[int]) -> Iterator[tuple[int, Row]]:
            asked_for = (contexts_B, numbers, sampler, p.max_new_tokens, done)
            for i, one in student.generate(*asked_for):
                if hand is not None:
                    hand(i, one.token_ids, one.entropies, True)
                told = (np.asarray(x, np.float32) for x in (one.logprobs, one.entropies))
                yield i, (np.asarray(one.token_ids, np.int32), *told)

        sampled = resume.rows(kept, "vllm", len(rows), stream)
        counts |= student.counts

    def told(row: Row) -> Sampled:
        ids, *rest = (array.tolist() for array in row)
        return Sampled(ids, generated(student.ends, ids).finish_reason, *rest)

    return Each(sampled, told)


def _policy(folder: Path, p: RolloutParams, runtime: params.Runtime) -> "Policy":
    """The policy of the exact pass, in the engine's dtype: vLLM's on a CPU is float32."""
    import torch

    from pipeline.engines.hf import load

    exact_cpu = p.engine == "vllm" and runtime.device == "cpu"
    return load(folder, runtime.device, torch.float32 if exact_cpu else None)


def _exact(
    policy: "Policy",
    contexts_B: Sequence[list[int]],
    responses_B: Sequence[list[int]],
    batch_tokens: int,
    kept: resume.State | None,
    hand: Hand | None = None,
) -> Spool:
    from pipeline.engines.scoring_pass import exact

    def stream(done: Collection[int]) -> Iterator[tuple[int, Row]]:
        for i, *pair in exact(policy, contexts_B, responses_B, batch_tokens, done):
            if hand is not None:
                hand(i, responses_B[i], pair[1], True)
            yield i, tuple(pair)

    return resume.rows(kept, "exact", len(contexts_B), stream)


@cells.entry
def main() -> None:
    args = cells.arguments("rollout", "prompts", "policy", "rollouts?", "forks?", "answers?")
    p = cells.params("rollout", args.cell, RolloutParams)
    runtime = params_file.runtime()
    with (
        resume.state("rollout", args, runtime) as kept,
        cells.running("rollout", args) as run,
        ahead.buying(args, run) as buyer,
    ):
        first = (p.round - 1) * p.prompts_per_round
        asked = prompts.read(args.prompts, "train", first, p.prompts_per_round)
        checkpoints.check(args.policy / "checkpoint")
        start(runtime)
        folder = args.policy / "checkpoint"
        vllm = p.engine == "vllm" and not p.prepare.imported
        how = (asked, p, runtime, run.counts, kept, buyer)
        sampled = through_vllm(folder, *how) if vllm else None
        policy = _policy(folder, p, runtime)
        if p.prepare.imported:
            from pipeline.training import external_rollouts

            external_rollouts.write(policy, asked, p.prepare, args.out, run)
            return
        if args.answers is not None:
            from pipeline.engines.repaired_rollouts import repaired

            sampled = repaired(policy, args, p, runtime.batch_tokens, run.counts)
        run.rows_in, tokens = len(asked), 0
        with tables.growing(args.out / "rollouts.parquet", schemas.ROLLOUTS) as add:
            rest = (p, runtime.batch_tokens, run.counts, kept, sampled, buyer)
            for table in rollout(policy, asked, *rest):
                add(table)
                run.rows_out += table.num_rows
                tokens += len(table["token_ids"].combine_chunks().values)
        run.earlier_seconds = kept.earlier
        run.counts["student_tokens"] = run.counts.pop("repair_tokens", tokens)


if __name__ == "__main__":
    main()
