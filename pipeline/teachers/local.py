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
from pipeline.errors import UserError
from pipeline.judgments.keys import Prompt
from pipeline.params import Mode
from pipeline.teachers import Answered, Ask, Asked, Continuation

if TYPE_CHECKING:
    from pipeline.budget import Budget
    from pipeline.engines.hf import Policy


class LocalTeacher:
    provider = "local"
    continuation: Mode = "completions"
    takes_seed = True

    def __init__(self, folder: Path, student: Path, asked: Asked) -> None:
        if asked.continuation != self.continuation:
            raise UserError(
                f"teach.continuation: found {asked.continuation}, wanted completions for a local "
                "checkpoint: the prefix is its own input."
            )
        self.folder, self.asked = checkpoints.check(folder), asked
        self.model = checkpoints.fingerprint(folder)
        self._same_tokens = (
            checkpoints.tokenizer(student / "tokenizer.json").to_str()
            == checkpoints.tokenizer(folder / "tokenizer.json").to_str()
        )
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self._prompts: dict[str, list[int]] = {}

    @property
    def same_tokens(self) -> bool:
        return self._same_tokens

    def sampler(self) -> dict[str, Any]:
        return {"temperature": self.asked.temperature, "top_p": 1.0, "top_k": 0}

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        """The student's own ids where both sides have one tokenizer: a text prefix would be
        tokenised again at the cut and continued as another word."""
        rendered = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        if rendered not in self._prompts:
            self._prompts[rendered] = self.tokenizer.encode(rendered, add_special_tokens=False)
        own = ids if self._same_tokens else self.tokenizer.encode(text, add_special_tokens=False)
        return (*self._prompts[rendered], *own)

    def limit(self, chunk_tokens: int) -> int:
        return chunk_tokens if self.same_tokens else -(-3 * chunk_tokens // 2) + 8

    def same_model(self, returned: str) -> bool:
        return returned == self.model

    def answer(self, asks: Sequence[Ask], limit: int, budget: "Budget") -> Iterator[Answered]:
        """An ask a reply. The budget is for what is paid; this costs electricity."""
        from pipeline.engines.branches import branches

        size = self.asked.runtime.batch_tokens
        found = branches(self._policy, asks, self.asked.temperature, limit, size)
        for i, (ask, continued) in enumerate(zip(asks, found, strict=True)):
            continuations = {
                draw: Continuation(
                    text=self.tokenizer.decode(generated.token_ids, skip_special_tokens=True),
                    token_ids=generated.token_ids,
                    ended=generated.finish_reason == "stop",
                    model_returned=self.model,
                    prompt_tokens=len(ask.prompts[draw.position]),
                    completion_tokens=len(generated.token_ids),
                )
                for draw, generated in zip(ask.draws, continued, strict=True)
            }
            tokens = sum(c.prompt_tokens + c.completion_tokens for c in continuations.values())
            yield Answered(i, continuations, tokens=tokens)

    @functools.cached_property
    def _policy(self) -> "Policy":
        start(self.asked.runtime)
        from pipeline.engines.hf import load

        return load(self.folder, self.asked.runtime.device)
