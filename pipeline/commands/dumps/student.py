"""Render messages with a student's tokenizer and template, and read messages back from the text."""

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from pipeline.core.errors import UserError
from pipeline.engines.chat import prerendered
from pipeline.tasks.problem_files import Row

Messages = list[dict[str, str]]
# how trainers ask a template: with its own default of thinking, or with it off or on
WAYS: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": False}, {"enable_thinking": True})
SAID, TOLD = "4f1c0b7e", "9d27ab61"  # no template writes them


class Asked(NamedTuple):
    messages: Messages
    prompt_ids: list[int]  # what the student read


class Frame(NamedTuple):
    """The texts that a template writes around a conversation's contents."""

    roles: tuple[str, ...]
    around: tuple[str, ...]  # one more than roles
    way: dict[str, bool]


class Student:
    """Raises UserError, when it is first needed, where the tokenizer cannot be read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._framed: dict[bool, list[Frame]] = {}
        self._turns: dict[bool, str] = {}

    @functools.cached_property
    def tokenizer(self) -> Any:
        from pipeline.engines.chat import tokenizer_files

        folder = Path(self.name)
        try:
            if (folder / "tokenizer.json").is_file():
                return tokenizer_files.load(folder)
            if self.name.endswith(".gguf"):
                return _of_gguf(self.name)
            return tokenizer_files.read_in(self.name, f"--student {self.name}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"--student {self.name}: its tokenizer, which reads the dump, is not there: {error}"
            ) from error

    @functools.cached_property
    def marks(self) -> prerendered.Marks:
        return prerendered.marks(self.tokenizer)

    @functools.cached_property
    def ends(self) -> tuple[str, ...]:
        """The texts of the tokens that end a turn."""
        from pipeline.engines.chat import turn_ends

        listed = turn_ends.listed_ends(self.name) if Path(self.name).is_dir() else ()
        return tuple(
            self.tokenizer.convert_ids_to_tokens(list(turn_ends.sources(self.tokenizer, listed)))
        )

    def ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=special))

    def rendered(self, messages: Messages, way: dict[str, bool]) -> str | None:
        """Render by the template; None where it refuses the messages, or where there is none."""
        if self.tokenizer.chat_template is None:
            return None
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, **way
                )
            )
        except TemplateError:
            return None

    def shown(self, text: str, special: bool) -> str:
        """A rendered text as a dump has it, `special` tokens decoded or not."""
        if special:
            return text
        return str(self.tokenizer.decode(self.ids(text), skip_special_tokens=True))

    def asked(self, row: Row, name: str, text: str, special: bool) -> Asked | None:
        """The conversation that the template renders to exactly `text`; None if `text` is plain.

        Only a user's message, or a system's and a user's, are looked for. Raises UserError naming
        the row if the text is rendered and these do not come back, or come back in two ways.
        """
        found: dict[tuple[int, ...], Asked] = {}
        for frame in self.frames(special):
            messages = _unframed(text, frame)
            if messages is None or self._holds_turns(messages, special):
                continue
            again = self.rendered(messages, frame.way)
            if again is not None and self.shown(again, special) == text:
                ids = self.ids(again)
                found.setdefault(tuple(ids), Asked(messages, ids))
        if len(found) == 1:
            return next(iter(found.values()))
        if not found and self.marks.found(text) is None:
            return None
        raise self.unclear(row, name, text, len(found))

    def unclear(self, row: Row, name: str, text: str, ways: int) -> UserError:
        """The error to raise where it cannot be told which messages were rendered to a text."""
        return UserError(
            f"{row.where}: {name}: found a rendered prompt, {text[:60]!r}, that the template of "
            f"--student makes of {ways} conversations of a user's message, alone or after a "
            "system's; wanted one. Is it the checkpoint, with the template, that wrote the dump? A "
            "prompt of several turns cannot be told from its text: write rows with `messages`, "
            "`prompt_token_ids` and `token_ids` (docs/in-and-out.md), and leave --format out."
        )

    def _holds_turns(self, messages: Messages, special: bool) -> bool:
        """Whether a message holds what the template writes, so that it may be several."""
        if special not in self._turns:
            self._turns[special] = self._turn(special)
        turn = self._turns[special]
        texts = [x["content"] for x in messages]
        return any(self.marks.found(x) or (turn.strip() and turn in x) for x in texts)

    def _turn(self, special: bool) -> str:
        """The text that the template writes between a user's message and the answer."""
        talk = [("user", SAID), ("assistant", TOLD), ("user", SAID)]
        text = self.rendered([{"role": role, "content": x} for role, x in talk], {})
        return self.shown(text, special).partition(SAID)[2].partition(TOLD)[0] if text else ""

    def frames(self, special: bool) -> list[Frame]:
        """How the template writes a user's message, alone and after a system's."""
        if special not in self._framed:
            self._framed[special] = list(self._frames(special))
        return self._framed[special]

    def _frames(self, special: bool) -> Iterator[Frame]:
        for roles, contents in ((("user",), (SAID,)), (("system", "user"), (TOLD, SAID))):
            messages = [
                {"role": role, "content": x} for role, x in zip(roles, contents, strict=True)
            ]
            for way in WAYS:
                text = self.rendered(messages, way)
                if text is None:
                    continue
                around, rest = [], self.shown(text, special)
                for x in contents:
                    before, cut, rest = rest.partition(x)
                    around.append(before)
                    if not cut:
                        break
                else:
                    if any(around) or rest:
                        yield Frame(roles, (*around, rest), way)


def _unframed(text: str, frame: Frame) -> Messages | None:
    """The messages between the texts of a frame; None where they are not clear."""
    first, *between, last = frame.around
    if not (text.startswith(first) and text.endswith(last)):
        return None
    if len(text) < len(first) + len(last):
        return None
    contents = [text[len(first) : len(text) - len(last)]]
    for separator in between:
        if not separator or contents[-1].count(separator) != 1:
            return None
        contents[-1:] = contents[-1].split(separator)
    if not contents[-1].strip():
        return None
    return [{"role": r, "content": x} for r, x in zip(frame.roles, contents, strict=True)]


def _of_gguf(name: str) -> Any:
    from transformers import AutoTokenizer

    from pipeline.engines.chat import templates

    package, _, file = name.partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or found.origin is None:
        raise UserError(f"--student {name}: wanted PACKAGE/FILE.gguf with an installed package.")
    folder = Path(found.origin).parent
    own = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    own.clean_up_tokenization_spaces = False
    own.chat_template = templates.template(own.chat_template, f"--student {name}")
    return own
