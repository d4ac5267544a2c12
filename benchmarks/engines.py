"""Our sampling against transformers' own on the same model, prompts and lengths, in one process.

    python -m benchmarks.engines CHECKPOINT

rollout        tokens/s of `pipeline.engines.hf.generate`; peer: `model.generate`, same batch
teach          tokens/s of `branches` at 3 nested prefixes a text, 8 continuations each; peer:
               `model.generate(num_return_sequences=8)` on each prefix, same batch sizes
score          pairs/s of the edit similarity, equal pairs computed once; peer: every pair alone

Every pair of runs is repeated in turn, so that a slow moment hits both. Writes
benchmarks/engines.json: name, value, unit, peer_value, ratio = ours / peer, repeats, spread (the
ratios' maximum - minimum).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engines.start import start
from pipeline.params import Runtime

REPEATS = 5
PROMPTS, NEW, CHUNK, SAMPLES = 256, 24, 6, 8


def compare(
    name: str, unit: str, work: float, ours: Callable[[], Any], peer: Callable[[], Any]
) -> dict[str, Any]:
    """`work` units done by each of the two, timed in turn after one warm-up."""
    ours(), peer()
    seconds = np.array([[_seconds(ours), _seconds(peer)] for _ in range(REPEATS)])
    ratios = seconds[:, 1] / seconds[:, 0]
    return {
        "name": name,
        "value": work / float(np.median(seconds[:, 0])),
        "unit": unit,
        "peer_value": work / float(np.median(seconds[:, 1])),
        "ratio": float(np.median(ratios)),
        "repeats": REPEATS,
        "spread": float(ratios.max() - ratios.min()),
    }


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def rollout(policy: Any) -> dict[str, Any]:
    import torch

    from pipeline.engines.hf import generate, padded
    from pipeline.engines.sampling import Sampler

    prompts = [policy.tokenizer.encode(f"{100 + i}+{355 + i}?") for i in range(PROMPTS)]
    uniforms = [np.random.default_rng(i).random(NEW) for i in range(PROMPTS)]
    ids, mask = padded(prompts, "cpu")

    def ours() -> None:
        list(generate(policy, prompts, uniforms, Sampler(1.0), NEW, 1 << 20))

    def peer() -> None:
        with torch.inference_mode():
            policy.model.generate(
                ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=NEW,
                pad_token_id=policy.tokenizer.pad_token_id,
            )  # fmt: skip

    return compare("rollout", "tokens/s", PROMPTS * NEW, ours, peer)


def teach(policy: Any) -> dict[str, Any]:
    import torch

    from pipeline.engines.branches import branches
    from pipeline.engines.hf import padded
    from pipeline.teachers import Ask, Draw

    text = policy.tokenizer.encode("378+465?8+5=13,7+6+1=14,3+4+1=8")
    places = [(p, len(text) - 24 + p) for p in (8, 14, 20)]
    draws = [Draw(p, s, 10 * p + s) for p, _ in places for s in range(SAMPLES)]
    asks = [Ask({p: (*text[:end],) for p, end in places}, draws) for _ in range(PROMPTS // 4)]
    rows = [ask.prefixes[p] for p, _ in places for ask in asks]

    def ours() -> None:
        list(branches(policy, asks, 1.0, CHUNK, 1 << 20))

    def peer() -> None:
        for start_row in range(0, len(rows), len(asks)):  # prefixes of one length together
            ids, mask = padded(rows[start_row : start_row + len(asks)], "cpu")
            with torch.inference_mode():
                policy.model.generate(
                    ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0,
                    max_new_tokens=CHUNK, num_return_sequences=SAMPLES,
                    pad_token_id=policy.tokenizer.pad_token_id,
                )  # fmt: skip

    return compare("teach", "tokens/s", len(rows) * SAMPLES * CHUNK, ours, peer)


def score() -> dict[str, Any]:
    from pipeline.similarity import Pair, similarities
    from pipeline.similarity.edit import measure as edit

    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("0123456789+=,"), 6)) for _ in range(200)]
    pairs = [Pair(*(texts[i], True, texts[j], True)) for i, j in draw.integers(0, 200, (50_000, 2))]
    return compare(
        "score", "pairs/s", len(pairs),
        lambda: similarities(pairs, "edit"), lambda: [edit([pair])[0] for pair in pairs],
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    start(Runtime(threads=1))
    from pipeline.engines.hf import load

    policy = load(parser.parse_args().checkpoint)
    policy.model.generation_config.eos_token_id = None  # the peer writes all its tokens
    rows = [rollout(policy), teach(policy), score()]
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row['name']}: {row['value']:.0f} {row['unit']}, peer {row['peer_value']:.0f}, "
            f"ratio {row['ratio']:.2f} (spread {row['spread']:.2f})\n"
        )


if __name__ == "__main__":
    main()
