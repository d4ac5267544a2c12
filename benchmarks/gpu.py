"""What the heavy parts cost on one GPU in bfloat16, beside what transformers alone does there.

Random weights in real shapes: Qwen3-1.7B, 8 of its 28 layers, a vocabulary of 152k, heads of 128.
Nothing is downloaded; packages that are missing are named, and their rows left out.

gpu_tests             tests marked gpu that passed; peer: how many there are
gpu_loss_memory_naive, gpu_loss_time_naive   reverse KL on 8,192 response tokens, forward and
                      backward to hidden states and head; peer: full logits
gpu_loss_memory_trl, gpu_loss_time_trl   the same; peer: TRL's chunked divergence
gpu_rollout           tokens/s of engine hf; peer: transformers' `generate`
gpu_exact             responses' tokens/s of the exact pass; peer: the model's own forward with all
                      logits in float32
gpu_step              steps/s of omniopd's gradients, weights in float32, products in bfloat16;
                      peer: the same loss by full logits
gpu_step_fsdp         the same with FSDP2 over one process; peer: without
gpu_gap_logp, gpu_gap_entropy   mean distance of the exact pass in bfloat16 from float32's, nats;
                      peer: the largest
gpu_gap_forks         share of forks that bfloat16 puts elsewhere; peer: 1

    python -m benchmarks gpu                   on a machine with a GPU: under 8 minutes
    SIZE=small python -m benchmarks gpu        the same on a CPU, with a model of 2 layers
"""

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from benchmarks import gpu_step, loss
from benchmarks.gpu_models import CARD, SMALL, Size, policy, shared, untrained
from benchmarks.measure import Row, in_turn, peak, row, seconds

ROOT = Path(__file__).parent.parent
REPEATS = 3


def rows(scratch: Path) -> list[Row]:
    import torch

    small = os.environ.get("SIZE") == "small"
    if not small and not torch.cuda.is_available():
        raise SystemExit("benchmarks gpu: found no GPU. SIZE=small runs it on a CPU.")
    size, device = (SMALL, "cpu") if small else (CARD, "cuda")
    card = "CPU, small" if small else torch.cuda.get_device_name()
    found = [] if small else _tests(scratch)
    for part in (_losses, _rollout, _exact, gpu_step.rows, _gaps):
        begin = time.monotonic()
        found += part(size, device, scratch)
        sys.stderr.write(
            f"gpu: {part.__module__}.{part.__name__} took {time.monotonic() - begin:.0f} s\n"
        )
    return [{**one, "unit": f"{one['unit']} ({card})"} for one in found]


def _tests(scratch: Path) -> list[Row]:
    """Tests marked gpu, in a process of their own."""
    report = scratch / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", "tests"]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, *rest = (int(suite.get(x, 0)) for x in ("tests", "failures", "errors", "skipped"))
    return [row("gpu_tests", "tests", "higher", "all", [float(total - sum(rest))], [float(total)])]


# the loss


def _losses(size: Size, device: str, scratch: Path) -> list[Row]:
    ids = np.random.default_rng(0).integers(0, size.vocabulary, size.loss_tokens + 1).tolist()
    ways = {"ours": loss.ours, "naive": loss.naive}
    with _if_here("trl", "gpu_loss_*_trl"):
        import trl  # noqa: F401

        ways["trl"] = loss.trl
    student, teacher = (m.to(device) for m in loss.models(size.vocabulary, size.hidden))
    taken = {}
    for name, way in ways.items():
        cast = device if name != "ours" else None  # ours has float32 logits, a slice at a time
        run = functools.partial(_lower, way, student, teacher, device=cast)
        run(ids[:65])  # imports and buffers of the libraries
        taken[name] = _cost(functools.partial(run, ids), device)
    words = {"naive": "full logits", "trl": "TRL's chunked divergence"}
    return [
        row(f"gpu_loss_{measure}_{way}", unit, "lower", words[way], [taken["ours"][key]], [x[key]])
        for measure, unit, key in (("memory", "MiB", "mib"), ("time", "s", "seconds"))
        for way, x in taken.items()
        if way != "ours"
    ]


def _lower(way: Any, student: Any, teacher: Any, ids: list[int], device: str | None) -> Any:
    import torch

    with torch.autocast(device or "cpu", torch.bfloat16, enabled=device is not None):
        return way(student, teacher, ids)


def _cost(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds, and MiB above what was held before."""
    import torch

    if device == "cpu":
        return peak(run)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    taken = seconds(whole)
    return {"seconds": taken, "mib": (torch.cuda.max_memory_allocated() - before) / 2**20}


# sampling and reading


def _rollout(size: Size, device: str, scratch: Path) -> list[Row]:
    import torch

    from pipeline.engines.hf import generate
    from pipeline.engines.sampling import Sampler

    own, plain = policy(size, device), untrained(size, device, 0, torch.bfloat16)
    prompts, _ = shared(size)
    uniforms = list(np.random.default_rng(3).random((len(prompts), size.new_tokens)))
    inputs = torch.tensor(prompts, device=device)
    how: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": size.new_tokens}
    how |= {"min_new_tokens": size.new_tokens, "pad_token_id": 0}

    def ours() -> None:
        sampler = Sampler(1.0, 1.0, 0)
        told = (own, prompts, uniforms, sampler, size.new_tokens, 1 << 20)
        assert sum(len(one.token_ids) for _, one in generate(*told)) > 0

    def theirs() -> None:
        with torch.inference_mode():
            plain.generate(inputs, attention_mask=torch.ones_like(inputs), **how).cpu()

    tokens = len(prompts) * size.new_tokens
    words = "transformers' generate"
    return [in_turn("gpu_rollout", "tokens/s", words, tokens, ours, theirs, REPEATS)]


def _exact(size: Size, device: str, scratch: Path) -> list[Row]:
    import torch

    from pipeline.engines.scoring_pass import exact

    own, (prompts, responses) = policy(size, device), shared(size)
    inputs = torch.tensor([p + r for p, r in zip(prompts, responses, strict=True)], device=device)

    def ours() -> None:
        assert len(list(exact(own, prompts, responses, 1 << 20))) == len(prompts)

    def theirs() -> None:
        with torch.inference_mode():
            for part in inputs.split(8):
                logits = own.model(input_ids=part).logits[:, size.prompt_tokens - 1 : -1]
                logp_BTV = logits.float().log_softmax(-1)
                new = part[:, size.prompt_tokens :, None]
                logp_BTV.gather(2, new).cpu(), (-logp_BTV.exp() * logp_BTV).sum(-1).cpu()

    tokens = len(prompts) * size.new_tokens
    words = "a forward pass with all logits"
    return [in_turn("gpu_exact", "tokens/s", words, tokens, ours, theirs, REPEATS)]


# what bfloat16 changes


def _gaps(size: Size, device: str, scratch: Path) -> list[Row]:
    from pipeline.engines.scoring_pass import exact
    from pipeline.method.schedulers import Response, peak_entropy

    prompts, responses = shared(size)
    values = {}
    for dtype in ("float32", "bfloat16"):
        found = exact(policy(size, device, 0, dtype), prompts, responses, 1 << 16)
        values[dtype] = [pair for _, *pair in sorted(found, key=lambda one: one[0])]
    gap = np.abs(np.array(values["bfloat16"]) - np.array(values["float32"]))  # rows, 2, tokens
    unused = np.random.default_rng(0)  # this scheduler draws nothing
    forks = {
        dtype: {
            (i, place)
            for i, (_, entropies) in enumerate(pairs)
            for place in peak_entropy.positions(
                Response(entropies, 3, min(8, size.new_tokens // 4), lambda start: True, unused)
            )
        }
        for dtype, pairs in values.items()
    }
    moved = len(forks["bfloat16"] - forks["float32"]) / max(len(forks["bfloat16"]), 1)
    names = ("gpu_gap_logp", "gpu_gap_entropy")
    told = ("nats", "lower", "the largest")
    both = zip(names, gap.mean((0, 2)).tolist(), gap.max((0, 2)).tolist(), strict=True)
    found_rows = [row(name, *told, [mean], [most]) for name, mean, most in both]
    return [*found_rows, row("gpu_gap_forks", "of forks", "lower", "all", [moved], [1.0])]


@contextlib.contextmanager
def _if_here(package: str, left_out: str) -> Iterator[None]:
    try:
        yield
    except ImportError:
        sys.stderr.write(f"gpu: {package} is not installed: {left_out} is left out\n")
