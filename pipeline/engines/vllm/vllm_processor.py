"""The logits processor of every engine: it forbids unused ids, and keeps what a rollout asks for.

vLLM calls it once for each token, behind allowed ids, minimum lengths and biases and before
penalties, temperature, top_p and top_k. So what it keeps is of the untempered distribution over the
ids that the tokenizer can emit, as the exact pass has it. Axes: B rows of a step, V vocabulary.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality

LOGITS_PER_SLICE = 1 << 24  # 64 MiB of float32
LOWEST = torch.finfo(torch.float32).min
KEEP = "keep"  # of a request's extra_args: its number, where something is to be kept of it
Key = tuple[int, int]  # a request's number and a sample's seed: samples of a request share the rest


class Tracked(NamedTuple):
    """A row of the batch of which something is kept."""

    key: Key
    tokens: list[int]  # that it has so far: vLLM's own list, which grows


class Step(NamedTuple):
    """What is kept of one step until its tokens are known, which is before the next."""

    rows: dict[int, tuple[Tracked, int]]  # by place in the batch, with the place of its next token
    logits_BV: torch.Tensor
    mass_B: torch.Tensor  # logsumexp
    entropies_B: torch.Tensor


class Kept(NamedTuple):
    """Of each token of a sample, nats."""

    logprobs: list[float]
    entropies: list[float]


class Processor(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        config = vllm_config.model_config
        mask_V = torch.ones(config.get_vocab_size(), dtype=torch.bool)
        known = Tokenizer.from_file(str(Path(config.model) / "tokenizer.json")).get_vocab()
        mask_V[[token for token in known.values() if token < len(mask_V)]] = False
        # padding rows of the head, such as Qwen's, stand for no token
        self.mask_V = mask_V.to(device) if mask_V.any() else None
        self.tracked: dict[int, Tracked] = {}  # by place in the batch
        self.kept: dict[Key, Kept] = {}
        self.step: Step | None = None

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """vLLM says before each step which rows of the batch came, went and moved."""
        self._finish()
        if batch_update is None:
            return
        for place in batch_update.removed:
            self.tracked.pop(place, None)
        for place, params, _, tokens in batch_update.added:
            self.tracked.pop(place, None)
            number = _number(params)
            if number is not None:
                self.tracked[place] = Tracked((number, params.seed), tokens)
        for one, other, direction in batch_update.moved:
            moved, back = self.tracked.pop(one, None), self.tracked.pop(other, None)
            if moved is not None:
                self.tracked[other] = moved
            if back is not None and direction == MoveDirectionality.SWAP:
                self.tracked[one] = back

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.mask_V is not None:
            logits.masked_fill_(self.mask_V, -torch.inf)
        if self.tracked:
            rows = {place: (row, len(row.tokens)) for place, row in self.tracked.items()}
            # what follows here is done in place: temperature, top_p, top_k
            self.step = Step(rows, logits.clone(), *mass_and_entropies(logits))
        return logits

    def _finish(self) -> None:
        """Keep the last step, whose tokens are known by now."""
        step, self.step = self.step, None
        if step is None:
            return
        # a row without a new token is a prompt that was read in part
        grown = {p: (row, at) for p, (row, at) in step.rows.items() if len(row.tokens) > at}
        places = torch.tensor(list(grown), device=step.logits_BV.device)
        tokens = [row.tokens[at] for row, at in grown.values()]
        if min(tokens, default=0) < 0:
            raise RuntimeError("vLLM schedules asynchronously: a token is not known in time")
        own = step.logits_BV[places, torch.tensor(tokens, device=places.device)]
        logps = (own - step.mass_B[places]).tolist()
        entropies = step.entropies_B[places].tolist()
        for (row, at), logp, entropy in zip(grown.values(), logps, entropies, strict=True):
            kept = self.kept.setdefault(row.key, Kept([], []))
            if at != len(kept.logprobs):
                raise RuntimeError(f"token {at} follows token {len(kept.logprobs) - 1}")
            kept.logprobs.append(logp)
            kept.entropies.append(entropy)

    def take(self, keys: list[Key]) -> list[Kept]:
        """What was kept of samples that have ended; it is kept no longer."""
        self._finish()
        return [self.kept.pop(key) for key in keys]


def _number(params: SamplingParams | None) -> int | None:
    return None if params is None else (params.extra_args or {}).get(KEEP)


def mass_and_entropies(logits_BV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logsumexp and entropy of each row, both (B,), nats; ids at -inf count for nothing."""
    size = max(1, LOGITS_PER_SLICE // logits_BV.shape[1])
    found = [_slice(logits_BV[at : at + size]) for at in range(0, len(logits_BV), size)]
    masses, entropies = zip(*found, strict=True)
    return torch.cat(masses), torch.cat(entropies)


def _slice(logits_BV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """H = logsumexp - E[logit], both less the largest logit, by which nothing is lost."""
    top_B = logits_BV.amax(-1, keepdim=True)
    below_BV = (logits_BV - top_B).clamp_(min=LOWEST)  # 0 times -inf would be no number
    part_BV = below_BV.exp()
    total_B = part_BV.sum(-1)
    mean_B = part_BV.mul_(below_BV).sum(-1) / total_B
    return top_B[:, 0] + total_B.log(), (total_B.log() - mean_B).clamp_(min=0)


def take(worker: Any, keys: list[Key]) -> list[Kept]:
    """Processor.take in a worker of vLLM: the one to hand to `collective_rpc`."""
    found = worker.model_runner.input_batch.logitsprocs.all
    (processor,) = (one for one in found if isinstance(one, Processor))
    return processor.take(keys)
