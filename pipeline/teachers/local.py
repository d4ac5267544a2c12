"""A local checkpoint as teacher.

The model is loaded at the first question, so a stage whose answers are all stored never loads
it. The longest prefix of a response is read once; its forks start from slices of that KV cache
and their N continuations from copies of the slice.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerFast

from pipeline import checkpoints
from pipeline.engines.start import start
from pipeline.params import Runtime
from pipeline.teachers import Ask, Continuation

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy


class LocalTeacher:
    provider = "local"

    def __init__(
        self, folder: Path, student_tokenizer: Path, temperature: float, runtime: Runtime
    ) -> None:
        self.folder, self.runtime, self.temperature = (
            checkpoints.check(folder),
            runtime,
            temperature,
        )
        self.model = checkpoints.fingerprint(folder)
        self.same_tokens = (
            checkpoints.tokenizer(student_tokenizer).to_str()
            == checkpoints.tokenizer(folder / "tokenizer.json").to_str()
        )
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._prompts: dict[str, list[int]] = {}

    def sampler(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": 1.0, "top_k": 0}

    def prefix(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> list[int]:
        """The student's own ids where both sides have one tokenizer: a text prefix would be
        tokenised again at the cut and continued as another word."""
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        if rendered not in self._prompts:
            self._prompts[rendered] = self.tokenizer.encode(rendered, add_special_tokens=False)
        own = ids if self.same_tokens else self.tokenizer.encode(text, add_special_tokens=False)
        return [*self._prompts[rendered], *own]

    def limit(self, chunk_tokens: int) -> int:
        return chunk_tokens if self.same_tokens else -(-3 * chunk_tokens // 2) + 8

    def answer(self, asks: Sequence[Ask], limit: int) -> Iterator[list[Continuation]]:
        from pipeline.engines.branches import branches

        for ask, found in zip(
            asks,
            branches(self._policy, asks, self.temperature, limit, self.runtime.batch_tokens),
            strict=True,
        ):
            yield [
                Continuation(
                    text=self.tokenizer.decode(generated.token_ids, skip_special_tokens=True),
                    token_ids=generated.token_ids,
                    ended=generated.finish_reason == "stop",
                    model_returned=self.model,
                    prompt_tokens=len(ask.prefixes[draw.position]),
                    completion_tokens=len(generated.token_ids),
                )
                for draw, generated in zip(ask.draws, found, strict=True)
            ]

    @functools.cached_property
    def _policy(self) -> "Policy":
        start(self.runtime)
        from pipeline.engines.hf import load

        return load(self.folder, self.runtime.device)
