"""Rollout tokens/s of the stage on SmolLM2, engines running; the exact pass in rows of its own.

rollout_vllm        `stages.rollout.through_vllm`; peer: `LLM.generate` of vLLM on the same prompts,
                    no seeds, no log-probabilities, eager and float32 as ours
rollout_vllm_same   the same; peer: with our seeds and log-probabilities: the same tokens
rollout_generate    the same; peer: transformers' `generate`, all rows in one batch
rollout_hf_generate our engine hf; peer: the same
rollout_vllm_full   the same with log-probabilities and entropies, and all that stage rollout does
                    behind it: some rows once more through the exact pass, text, grades, the table;
                    peer: `LLM.generate`, which has none of it
rollout_exact       the exact pass, tokens/s of prompts and responses; peer: the model's own forward
                    with all logits, float32, the same batches

vLLM is warm, ours and its own: its start is in neither figure. transformers, ours and its own, runs
once, cold. Ours counts templating, seeds, and what the stage does to keep its rows.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import student
from benchmarks.measure import Row, in_turn, row, seconds, threads

PROMPTS, SAMPLES, NEW = 12, 4, 48
REPEATS, SLOW_REPEATS = 5, 1  # of vLLM, of transformers


class Raw:
    """vLLM in a process of its own, with one thread a core as ours."""

    def __init__(self, folder: Path) -> None:
        answers, out = os.pipe()
        command = [sys.executable, "-m", "benchmarks.raw_vllm", str(folder), str(out)]
        off = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        same = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads())}
        same |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            env={**os.environ, **off, **same},
            pass_fds=[out],
            text=True,
        )
        os.close(out)
        self._answers = os.fdopen(answers)

    def generate(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._answers.readline()
        assert answer, "vLLM ended by itself; its own log is above"
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def rows(scratch: Path) -> list[Row]:
    from pipeline.config.params import Runtime
    from stages.rollout import RolloutParams

    runtime = Runtime(threads=threads(), batch_tokens=1 << 20)
    told = {"engine": "vllm", "exact": "engine"}
    told |= {"samples_per_prompt": SAMPLES, "max_new_tokens": NEW}
    p = RolloutParams(**{**student.params_of("rollout"), **told})
    asked, folder = student.problems(PROMPTS), student.checkpoint(scratch)
    found, sampled = _vllm(folder, asked, p, runtime)
    return found + _transformers(folder, asked, p, runtime, sampled, found[0])


def _vllm(folder: Path, asked: list[Any], p: Any, runtime: Any) -> tuple[list[Row], Sequence[Any]]:
    from pipeline.core import seeds
    from pipeline.engines.torch_setup import start

    start(runtime)
    from pipeline.engines.hf import load
    from stages.rollout import rollout, through_vllm

    policy = load(folder)
    numbers = [
        seeds.number(p.seed, "rollout", p.round, x.prompt_id, i)
        for x in asked
        for i in range(p.samples_per_prompt)
    ]
    ours, whole, plain, same, sampled = [], [], [], [], []
    with _warm(folder, runtime) as engine, contextlib.closing(Raw(folder)) as raw:
        ids = [engine.prompt_ids(x.messages) for x in asked for _ in range(p.samples_per_prompt)]
        told = {"prompts": ids, "max_tokens": p.max_new_tokens, "ends": engine.ends}
        for repeat in range(REPEATS + 1):
            taken = seconds(lambda: sampled.append(through_vllm(folder, asked, p, runtime, {})))
            how = (p, runtime.batch_tokens, {}, None, sampled[-1])
            behind = seconds(lambda: list(rollout(policy, asked, *how)))  # noqa: B023
            free = raw.generate(**told, seeds=None, logprobs=False)
            equal = raw.generate(**told, seeds=numbers, logprobs=True)
            mine = [one.token_ids for one in sampled[-1]]
            alike = sum(a == b for a, b in zip(mine, equal["tokens"], strict=True)) / len(mine)
            assert alike > 0.9, f"{alike:.0%} of the rows are the same"  # the rest: last bits
            if repeat:  # the first warms all three
                ours.append(_count(mine) / taken)
                whole.append(_count(mine) / (taken + behind))
                plain.append(_count(free["tokens"]) / free["seconds"])
                same.append(_count(equal["tokens"]) / equal["seconds"])
    unit, words = "tokens/s", "vLLM's LLM.generate"
    return [
        row("rollout_vllm", unit, "higher", words, ours, plain),
        row("rollout_vllm_full", unit, "higher", words, whole, plain),
        row("rollout_vllm_same", unit, "higher", f"{words}, same seeds, log-probs", ours, same),
    ], sampled[-1]


def _count(rows_: list[list[int]]) -> int:
    return sum(map(len, rows_))


@contextlib.contextmanager
def _warm(folder: Path, runtime: Any) -> Iterator[Any]:
    """The stage's own engine, started once: `through_vllm` finds it running."""
    from pipeline.engines.vllm import vllm_student

    original = vllm_student.Student
    with original(folder, runtime, exact=True) as running:
        found: Any = lambda *_, **__: contextlib.nullcontext(running)  # noqa: E731
        vllm_student.Student = found  # type: ignore[misc]
        try:
            yield running
        finally:
            vllm_student.Student = original  # type: ignore[misc]


def _transformers(
    folder: Path, asked: list[Any], p: Any, runtime: Any, sampled: Sequence[Any], through_vllm: Row
) -> list[Row]:
    from pipeline.engines.torch_setup import start

    start(runtime)
    from pipeline.engines.hf import generate, load
    from pipeline.engines.sampling import Sampler

    policy = load(folder)
    prompts = [policy.prompt_ids(x.messages) for x in asked for _ in range(p.samples_per_prompt)]
    uniforms = [np.random.default_rng(i).random(p.max_new_tokens) for i in range(len(prompts))]
    told = (policy, prompts, uniforms, Sampler(1.0), p.max_new_tokens, runtime.batch_tokens)
    rates = []
    for _ in range(SLOW_REPEATS):
        written: list[int] = []
        mine = seconds(lambda: written.extend(len(g.token_ids) for _, g in generate(*told)))  # noqa: B023
        their: list[int] = []
        taken = seconds(lambda: their.append(plain(policy, prompts, p.max_new_tokens)))  # noqa: B023
        rates.append((sum(written) / mine, their[0] / taken))
    words = "transformers' generate"
    peer, ours = [b for _, b in rates], through_vllm["value"]
    found = [
        row("rollout_generate", "tokens/s", "higher", words, [ours] * len(peer), peer),
        row("rollout_hf_generate", "tokens/s", "higher", words, [a for a, _ in rates], peer),
    ]
    responses = [one.token_ids for one in sampled]
    return [*found, _exact(policy, prompts[:PROMPTS], responses[:PROMPTS])]


def plain(policy: Any, prompts: list[list[int]], new: int, samples: int = 1) -> int:
    """Tokens that `generate` writes after left-padded prompts, up to each row's end."""
    import torch

    pad, width = policy.ends[0], max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(x)) + list(x) for x in prompts])
    mask = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in prompts])
    with torch.inference_mode():
        found = policy.model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=new, pad_token_id=pad, eos_token_id=pad, num_return_sequences=samples,
        )  # fmt: skip
    written = found[:, width:]
    ended = (written == pad).int().cumsum(-1) - (written == pad).int()
    return int((ended == 0).sum())


def _exact(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> Row:
    import torch

    from pipeline.engines.kv_cache import padded
    from pipeline.engines.scoring_pass import exact

    texts = [[*a, *b] for a, b in zip(prompts, responses, strict=True)]

    def full() -> None:
        ids, mask = padded(texts, "cpu")
        with torch.inference_mode():
            logp_BTV = torch.log_softmax(policy.model(ids, attention_mask=mask).logits, -1)
            logp_BTV[:, :-1].gather(-1, ids[:, 1:, None])
            (logp_BTV.exp() * logp_BTV).sum(-1)

    return in_turn(
        "rollout_exact", "tokens/s", "transformers, all logits at once", sum(map(len, texts)),
        lambda: list(exact(policy, prompts, responses, 1 << 20)), full, REPEATS,
    )  # fmt: skip
