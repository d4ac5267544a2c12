"""The process that vLLM runs in: jobs on standard input, a line each; answers on a pipe of its own.

`vllm_process.py` starts it. It ends when its input does, or with the process that started it.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from pipeline.engines.vllm import vllm_weights
from pipeline.engines.vllm.vllm_process import WEIGHTS
from pipeline.engines.vllm.vllm_processor import KEEP, take

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def parameters(settings: dict[str, Any], kept: int | None, seed: int, n: int) -> SamplingParams:
    """Every setting written out. A turn ends with the ends that are given, and no others.

    `kept`: the request's number, where the processor is to keep what it knows of its tokens.
    """
    return SamplingParams(
        n=n,
        seed=seed,
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        top_k=settings["top_k"],
        min_p=0.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        max_tokens=settings["max_tokens"],
        min_tokens=0,
        ignore_eos=True,
        stop_token_ids=settings["ends"],
        logprobs=None,
        extra_args=None if kept is None else {KEEP: kept},
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class Served:
    """An engine and what it has loaded."""

    def __init__(self, started: dict[str, Any]) -> None:
        self.weights = started.pop(WEIGHTS, None)  # the folder and sha256 of a checkpoint
        self.engine = LLMEngine.from_engine_args(EngineArgs(**started))
        self._numbers: dict[str, int] = {}  # of adapters, by sha256: vLLM knows one by nothing else

    def load(self, weights: dict[str, str]) -> bool:
        """Have the weights of a checkpoint; whether they were put in the place of others."""
        swaps = bool(weights["sha256"] != self.weights["sha256"])
        if swaps:
            _wake(self.engine)
            vllm_weights.swap(self.engine, Path(weights["folder"]), Path(self.weights["folder"]))
        self.weights = weights
        return swaps

    def adapter(self, asked: dict[str, str] | None) -> LoRARequest | None:
        """A number and a name of its own for each adapter: those of another round are others."""
        if asked is None:
            return None
        sha256 = asked["sha256"]
        number = self._numbers.setdefault(sha256, len(self._numbers) + 1)
        return LoRARequest(f"adapter-{sha256}", number, asked["folder"])

    def prompt(self, token_ids: list[int]) -> dict[str, Any]:
        """Blocks that other weights read have another salt."""
        salt = {} if self.weights is None else {"cache_salt": self.weights["sha256"]}
        return {"prompt_token_ids": token_ids, **salt}


def answer(served: Served, asked: dict[str, Any], out: IO[str]) -> None:
    """Take `count` jobs from standard input; write an answer for each, then counts."""
    engine, lora = served.engine, served.adapter(asked["adapter"])
    _wake(engine)
    counts = Counter(engine_prompt_tokens=0, engine_cached_tokens=0)
    seeds = {}
    for _ in range(asked["count"]):
        index, prompt, seed, n = json.loads(sys.stdin.readline())
        seeds[index] = seed
        wanted = parameters(asked["settings"], index if asked["exact"] else None, seed, n)
        engine.add_request(str(index), served.prompt(prompt), wanted, lora_request=lora)
    while engine.has_unfinished_requests():
        for output in engine.step():
            index = int(output.request_id)
            say(out, [index, samples(engine, output, seeds.pop(index) if asked["exact"] else None)])
            counts["engine_prompt_tokens"] += len(output.prompt_token_ids)
            counts["engine_cached_tokens"] += output.num_cached_tokens or 0
    say(out, counts)


def rest(engine: LLMEngine) -> None:
    """Forget what was asked, and leave a GPU to others."""
    vllm_weights.forget(engine)
    if engine.vllm_config.model_config.enable_sleep_mode:
        _sleep(engine)


def _sleep(engine: LLMEngine) -> None:
    """Move the weights to RAM and free the KV cache."""
    engine.sleep(level=1)


def _wake(engine: LLMEngine) -> None:
    if engine.is_sleeping():
        engine.wake_up()


def samples(engine: LLMEngine, output: Any, seed: int | None) -> list[tuple[Any, ...]]:
    """Ids and finish reason of each sample of a request, the first of which has the seed `seed`;
    log-probabilities and entropies too, where they were kept: then it is not None."""
    choices = sorted(output.outputs, key=lambda choice: choice.index)
    found = [(list(choice.token_ids), choice.finish_reason) for choice in choices]
    if seed is None:
        return [(*one, None, None) for one in found]
    keys = [(int(output.request_id), seed + choice.index) for choice in choices]
    kept = engine.collective_rpc(take, args=(keys,))[0]  # the ranks of one engine keep the same
    for (ids, _), (logprobs, _) in zip(found, kept, strict=True):
        if len(ids) != len(logprobs):
            raise RuntimeError(f"error: {len(ids)} tokens, and {len(logprobs)} were kept")
    return [(*one, *of_tokens) for one, of_tokens in zip(found, kept, strict=True)]


def say(out: IO[str], what: Any) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    served = Served(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        match json.loads(line):
            case str():
                rest(served.engine)
                say(out, None)
            case {"load": weights}:
                start = time.perf_counter()
                swapped = served.load(weights)
                say(out, {"swapped": swapped, "seconds": time.perf_counter() - start})
            case asked:
                answer(served, asked, out)
    served.engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
