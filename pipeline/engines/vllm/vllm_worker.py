"""The process that vLLM runs in: jobs on standard input, a line each; answers on a pipe of its own.

`vllm.py` starts it. It ends when its input does, or with the process that started it.
"""

import ctypes
import json
import math
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Any

import torch
from tokenizers import Tokenizer
from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.logits_processor import LogitsProcessor

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class MaskUnused(LogitsProcessor):  # type: ignore[misc]
    """Forbid ids of the head that stand for no token: padding rows, such as Qwen's."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config
        mask_V = torch.ones(config.get_vocab_size(), dtype=torch.bool)
        known = Tokenizer.from_file(str(Path(config.model) / "tokenizer.json")).get_vocab()
        mask_V[[token for token in known.values() if token < len(mask_V)]] = False
        self.mask_V = mask_V.to(device) if mask_V.any() else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.mask_V is None else logits.masked_fill_(self.mask_V, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """The mask is every request's."""


def parameters(settings: dict[str, Any], logprobs: int | None, seed: int, n: int) -> SamplingParams:
    """Every setting written out. A turn ends with the ends that are given, and no others."""
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
        logprobs=logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def answer(engine: LLMEngine, asked: dict[str, Any], out: IO[str]) -> None:
    """Take `count` jobs from standard input; write an answer for each, then counts."""
    _wake(engine)
    counts = Counter(engine_prompt_tokens=0, engine_cached_tokens=0)
    for _ in range(asked["count"]):
        index, prompt, seed, n = json.loads(sys.stdin.readline())
        wanted = parameters(asked["settings"], asked["logprobs"], seed, n)
        engine.add_request(
            str(index), {"prompt_token_ids": prompt}, wanted, lora_request=adapter(asked["adapter"])
        )
    while engine.has_unfinished_requests():
        for output in engine.step():
            found = [sample(choice, asked["logprobs"]) for choice in output.outputs]
            say(out, [int(output.request_id), found])
            counts["engine_prompt_tokens"] += len(output.prompt_token_ids)
            counts["engine_cached_tokens"] += output.num_cached_tokens or 0
    say(out, counts)


def rest(engine: LLMEngine) -> None:
    """Forget what was asked, and leave a GPU to others."""
    engine.reset_prefix_cache()
    if engine.vllm_config.model_config.enable_sleep_mode:
        _sleep(engine)


def _sleep(engine: LLMEngine) -> None:
    """Move the weights to RAM and free the KV cache."""
    engine.sleep(level=1)


def _wake(engine: LLMEngine) -> None:
    if engine.is_sleeping():
        engine.wake_up()


def adapter(folder: str | None) -> LoRARequest | None:
    """An engine serves one adapter at most, so its number is always 1."""
    return None if folder is None else LoRARequest("adapter", 1, folder)


def sample(choice: Any, top: int | None) -> tuple[list[int], str, Any, Any]:
    """Ids, finish reason and, of each token, log-probability and estimated entropy or None."""
    ids = list(choice.token_ids)
    if choice.logprobs is None:
        return ids, choice.finish_reason, None, None
    found = zip(ids, choice.logprobs, strict=True)
    logprobs = [at[token].logprob for token, at in found]
    if not top:
        return ids, choice.finish_reason, logprobs, None
    return ids, choice.finish_reason, logprobs, [bounded(at, top) for at in choice.logprobs]


def bounded(at: dict[int, Any], top: int) -> float:
    """Entropy in nats from the `top` most likely tokens, all others as one: a lower bound."""
    probs = [math.exp(one.logprob) for one in at.values() if one.rank <= top]
    probs.append(max(1 - sum(probs), 0.0))
    return -sum(p * math.log(p) for p in probs if p > 0)


def say(out: IO[str], what: Any) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


def main() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    engine = LLMEngine.from_engine_args(EngineArgs(**json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        match json.loads(line):
            case str():
                rest(engine)
                say(out, None)
            case asked:
                answer(engine, asked, out)
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
