"""The student in vLLM: what `hf.Policy` and `hf.generate` are to transformers."""

import itertools
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints, hf, scoring_pass
from pipeline.engines.chat import tokenizer_files, turn_ends
from pipeline.engines.sampling import Sampler
from pipeline.engines.vllm import vllm_process
from pipeline.engines.vllm.engine import Engine, Job, NotLoaded, Sampled, Settings

# rows that an engine is handed at once: it takes 7 KB for each until it has answered, and while the
# last ones are finished it is not full
BLOCK = 1 << 14
PROOF, CONTINUED = 16, 4  # tokens of the prompt that proves other weights, and behind it
APART = 2e-3  # nats; above it the engine computes something else
TRIES = 3  # of engines that had other weights, before none is left
log = logging.getLogger("omniopd")


class Student:
    """A checkpoint in vLLM with its tokenizer. A context manager: its processes end with it, but
    where a run keeps them for the next round of the same student.

    `exact`: responses come with log-probabilities and entropies of their tokens.
    """

    def __init__(self, folder: Path, runtime: Runtime, exact: bool = False) -> None:
        self._engine = opened(folder, runtime, exact)
        self.tokenizer, self.ends = tokenizer_files.load(folder), turn_ends.ends(folder)
        self.context: int | None = checkpoints.context(folder)
        if self.tokenizer.chat_template is None:
            self._engine.close()
            raise UserError(f"{folder}: the tokenizer needs a chat template.")

    @property
    def swap_seconds(self) -> float:
        """In which a running engine took this student's weights."""
        return self._engine.swap_seconds

    @property
    def counts(self) -> dict[str, int]:
        """Tokens of prompts so far, and those of them that were in the prefix cache."""
        return dict(self._engine.counts)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response, without special tokens and its end."""
        return hf.decode_text(self.tokenizer, self.ends, token_ids)

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        return hf.prompt_ids(self.tokenizer, messages)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        sampler: Sampler,
        max_new_tokens: int,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Sampled]]:
        """(index, one response) for each prompt as they finish; row i's is of seeds[i].

        Rows that are `done` are left out.
        """
        wanted = (i for i in range(len(prompts)) if i not in done)
        settings = Settings(*sampler, max_new_tokens, self.ends)
        while block := list(itertools.islice(wanted, BLOCK)):
            groups: dict[tuple[int, ...], int] = {}  # equal prompts go where their prefix is cached
            jobs = [
                Job(prompt, seed, group=groups.setdefault(tuple(prompt), len(groups)))
                for prompt, seed in ((prompts[i], seeds[i]) for i in block)
            ]
            for index, (sampled,) in self._engine.sample(jobs, settings):
                yield block[index], sampled

    def __enter__(self) -> "Student":
        return self

    def __exit__(self, *_: Any) -> None:
        self._engine.close()


def opened(folder: Path, runtime: Runtime, exact: bool) -> Engine:
    """An engine of the checkpoint; one that had another student's weights is proved first.

    One that fails is ended, and another is started. Raises UserError.
    """
    shape = None
    if runtime.device == "cpu" and os.environ.get(vllm_process.ENV):  # not tried on a GPU
        shape = checkpoints.shape(checkpoints.verified_base(folder))
    for _ in range(TRIES):
        try:
            stays = shape is not None  # for stages that want entropies, too
            engine = Engine(folder, runtime, exact or stays, resident=shape, changes=stays)
        except NotLoaded as error:
            log.warning(f"{error} It is started anew.")
            continue
        gap = off(engine, folder) if engine.swapped else 0.0
        if gap <= APART:
            engine.exact = exact
            return engine
        log.warning(
            f"engine vllm on {folder}: after a change of weights found log-probabilities {gap:.2g} "
            f"nats off those of the checkpoint, wanted at most {APART}. It is started anew."
        )
        engine.discard()
    raise UserError(f"engine vllm on {folder}: no engine took its weights. Use engine hf.")


def off(engine: Engine, folder: Path) -> float:
    """The largest distance, nats, of an engine's log-probabilities and entropies from the exact
    pass of the checkpoint, on a continuation of a fixed prompt."""
    policy = hf.load(folder, dtype=torch.float32)
    known = (~policy.unused_vocab_mask).nonzero()[:, 0].tolist()
    prompt = [known[i * 7919 % len(known)] for i in range(PROOF)]
    asked = Settings(1.0, 1.0, 0, CONTINUED, policy.ends)
    ((_, (found,)),) = engine.sample([Job(prompt, 0)], asked)
    ((_, *exact),) = scoring_pass.exact(policy, [prompt], [found.token_ids], 2 * PROOF)
    return float(np.abs(np.array([found.logprobs, found.entropies]) - np.array(exact)).max())
