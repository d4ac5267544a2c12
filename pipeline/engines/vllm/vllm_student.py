"""The student in vLLM: what `hf.Policy` and `hf.generate` are to transformers."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints, hf
from pipeline.engines.chat import tokenizer_files, turn_ends
from pipeline.engines.sampling import Sampler
from pipeline.engines.vllm.engine import Engine, Job, Sampled, Settings

# rows that an engine is handed at once: it takes 7 KB for each until it has answered, and while the
# last ones are finished it is not full
BLOCK = 1 << 14


class Student:
    """A checkpoint in vLLM with its tokenizer. A context manager: its processes end with it.

    `exact`: responses come with log-probabilities and entropies of their tokens.
    """

    def __init__(self, folder: Path, runtime: Runtime, exact: bool = False) -> None:
        self._engine = Engine(folder, runtime, exact)
        self.tokenizer, self.ends = tokenizer_files.load(folder), turn_ends.ends(folder)
        self.context: int | None = checkpoints.context(folder)
        if self.tokenizer.chat_template is None:
            self._engine.close()
            raise UserError(f"{folder}: the tokenizer needs a chat template.")

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
