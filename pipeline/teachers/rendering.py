"""Render what a teacher behind HTTP is sent: text, the ids of its own tokenizer, or messages."""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.params import Mode
from pipeline.config.teachers import Hosted
from pipeline.core.errors import UserError
from pipeline.data import text as texts
from pipeline.judgments.keys import Prompt, canonical
from pipeline.teachers import continuations
from pipeline.teachers.protocol import NEIGHBOURS
from pipeline.teachers.wire.counting import MANY_CHARACTERS, tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Rendering:
    """Problems and prefixes as a teacher gets them, and how many tokens they are."""

    def __init__(
        self,
        config: Hosted,
        name: str,
        continuation: Mode,
        student: Path,
        takes_ids: bool,
    ) -> None:
        self.config, self.name, self.continuation = config, name, continuation
        self.student, self.takes_ids = student, takes_ids
        self._encoded = functools.lru_cache(NEIGHBOURS)(self._encode)

    @functools.cached_property
    def same_tokens(self) -> bool:
        """The student's own ids are sent: the tokenizer is the same, to the letter."""
        if self.continuation != "completions" or not self.takes_ids:
            return False
        if not (self.student / "tokenizer.json").is_file():
            return False  # a check before the student exists
        own = json.loads(self.tokenizer.backend_tokenizer.to_str())
        from pipeline.engines import checkpoints

        student = checkpoints.tokenizer(self.student / "tokenizer.json")
        return bool(own == json.loads(student.to_str()))

    @property
    def template(self) -> "PreTrainedTokenizerFast | None":
        """The template; in the other modes that of `tokenizer`, by which the provider renders."""
        if self.continuation != "completions":
            source = self.config.tokenizer
            if source is None:
                return None
            if source == "student" and not (self.student / "tokenizer.json").is_file():
                return None  # a check before the student exists
        return self.tokenizer

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        from pipeline.engines.chat import turn_ends

        if self.template is None:
            return ()
        where = self.student if self.config.tokenizer == "student" else self.config.tokenizer
        return tuple(turn_ends.sources(self.template, turn_ends.listed_ends(str(where))))

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        source = self.config.tokenizer
        if source is None:
            raise UserError(
                f"teachers.{self.name}.tokenizer: mode completions renders the teacher's own chat "
                "template, so it needs the tokenizer: student, a folder, or a hub name. Or set "
                "teach.continuation: prefill."
            )
        if source == "student" and not (self.student / "tokenizer.json").is_file():
            raise UserError(
                f"teachers.{self.name}.tokenizer: the student does not exist yet. Run "
                "`omniopd repro`: it makes it, and stops before it spends anything if the teacher "
                "fails its check."
            )
        from pipeline.engines.chat import tokenizer_files

        owner = f"teachers.{self.name}.tokenizer"
        try:
            return (
                tokenizer_files.load(self.student)
                if source == "student"
                else tokenizer_files.read_in(source, owner)
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{owner}: {source!r} could not be loaded ({error}). "
                "Wanted: student, a folder with tokenizer.json, or a name on the hub."
            ) from error

    def prompt(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        text = text.replace(texts.LOST, "")  # what stands for no character is not sent
        match self.continuation:
            case "completions":
                return self._rendered(messages, ids, text)
            case "prefill":
                return canonical(self._prefilled(messages, text)).decode()
            case "instruct":
                return canonical(continuations.instruct(messages, text)).decode()

    def _rendered(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> Prompt:
        """The teacher's own template and the raw prefix: the student's ids where they mean the
        same to both sides, as a text is tokenised again at the cut and continued as another word.
        Else the teacher's ids, so that no server puts a second BOS before them."""
        from pipeline.engines.chat import templates

        prompt = templates.render(self.tokenizer, messages, f"teacher {self.name}")
        if not self.takes_ids:
            return prompt + text
        if not self.same_tokens:
            return tuple(self._encode(prompt + text))
        return (*self._encoded(prompt), *ids)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _prefilled(self, messages: list[dict[str, str]], text: str) -> list[dict[str, str]]:
        """The prefix as the last message. Raises UserError if the template is known to alter it."""
        prefix = text.rstrip()  # providers refuse trailing white space, or strip it
        if not prefix:
            return messages
        turns = [*messages, {"role": "assistant", "content": prefix}]
        if self.config.tokenizer:
            from pipeline.engines.chat import templates

            try:
                how = {"generation": False, "continue_final_message": True}
                shown = templates.render(self.tokenizer, turns, f"teacher {self.name}", **how)
            except ValueError as error:  # the text is nowhere in what the template makes of it
                shown = str(error)
            if not shown.endswith(prefix):
                raise UserError(
                    f"teachers.{self.name}: its chat template alters the prefilled text, found "
                    f"{shown[-80:]!r} at the end, wanted {prefix[-80:]!r}. "
                    "Set teach.continuation: completions."
                )
        return turns

    def size(self, prompt: Prompt) -> int:
        if isinstance(prompt, tuple):
            return len(prompt)
        if self.config.tokenizer is None:
            return int(len(prompt) / MANY_CHARACTERS)
        if self.continuation == "completions":
            return len(self._encode(prompt))
        return sum(len(self._encoded(message["content"])) for message in json.loads(prompt))

    def count(self, text: str) -> int | None:
        """Tokens of a text by the teacher's tokenizer; None where none is named."""
        if self.config.tokenizer is None:
            return None
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def read(self, prompt: Prompt) -> int:
        """Tokens of a prompt, rather too many: messages are estimated."""
        if isinstance(prompt, str) and self.continuation == "completions":
            return len(self._encode(prompt))
        return math.ceil(tokens(prompt))
