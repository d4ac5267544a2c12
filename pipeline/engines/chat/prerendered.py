"""Prompts that another program has already rendered: the chat template would be applied twice.

They hold what only templates write, the student's control tokens, or begin and end as its template
does (so look dumps that were decoded without special tokens). A prompt that merely speaks of
`<think>` tags is plain, as is one with `<`, `[` or HTML.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError
from pipeline.data.prompts import Prompt

SPOKEN = re.compile(r"</?(?:think|thinking|tool_call|tool_response|answer)>")  # asked for in words
TAG = re.compile(r"</?\w+>")  # <filename> is one of SmolLM's special tokens, and of man pages
NAMED = ("bos_token", "eos_token", "pad_token")
PROBE = "4f1c0b7e"  # no template writes it
PLAIN = (
    "plain text: the student's chat template adds such tokens itself. Give `messages`, a list of "
    "{role, content}"
)


class Marks(NamedTuple):
    """Marks that a student's tokenizer and template write around the text of a conversation."""

    tokens: tuple[str, ...]  # the longest first
    before: str  # of a lone user's text, without those tokens
    after: str

    def found(self, text: str) -> str | None:
        """The mark that says that `text` is already rendered, or None."""
        token = already_rendered(text, self.tokens)
        if token is not None:
            return f"the student's special token {token!r}"
        framed = text.startswith(self.before) and text.rstrip().endswith(self.after.rstrip())
        if self.before and self.after and framed:
            return f"{self.before!r} and {self.after!r}, which the student's template writes"
        return None


def already_rendered(text: str, special_tokens: Collection[str]) -> str | None:
    """The first of the special tokens that `text` holds; at one place the longest."""
    held = [(text.find(x), -len(x), x) for x in special_tokens if x and x in text]
    return min(held)[2] if held else None


def marks(tokenizer: Any) -> Marks:
    """Tokens that only a template or a trainer writes, not a person.

    Of those flagged as special: all but plain tags that are neither in the template nor begin, end
    or pad a text. Of the others that were added: what the template writes before a user's text.
    `tokenizer` is one of transformers, with or without a chat template.
    """
    before, after = _around(tokenizer)
    template = str(tokenizer.chat_template or "") + before + after
    named = {getattr(tokenizer, name) for name in NAMED}
    tokens = set()
    for added in tokenizer.added_tokens_decoder.values():
        token = str(added.content)
        if SPOKEN.fullmatch(token) or not token.strip() or token.strip().isalnum():
            continue  # some vocabularies add words and runs of spaces
        if added.special and (token in named or token in template or not TAG.fullmatch(token)):
            tokens.add(token)
        if not added.special and token in before:
            tokens.add(token)
    ordered = tuple(sorted(tokens, key=lambda x: (-len(x), x)))
    return Marks(ordered, _without(before, ordered), _without(after, ordered))


def _around(tokenizer: Any) -> tuple[str, str]:
    from pipeline.engines.chat import templates

    if not isinstance(tokenizer.chat_template, str):
        return "", ""
    try:
        rendered = templates.render(tokenizer, [{"role": "user", "content": PROBE}], "")
    except UserError:
        return "", ""  # it will refuse the prompts themselves, with its own words
    before, found, after = rendered.partition(PROBE)
    return (before, after) if found else ("", "")


def _without(text: str, tokens: Sequence[str]) -> str:
    for token in tokens:
        text = text.replace(token, "")
    return text if text.strip() else ""


def of_folder(folder: Path) -> Marks | None:
    """The marks of a checkpoint's folder; None where it is no folder with a tokenizer.json."""
    if not (folder / "tokenizer.json").is_file():
        return None
    from pipeline.engines.chat import tokenizer_files

    try:
        return marks(tokenizer_files.load(folder))
    except (OSError, ValueError):
        return None  # the stage that imports the model says what is wrong with it


def refuse(where: str, messages: Sequence[dict[str, str]], known: Marks) -> None:
    """Raises UserError where a message is rendered; `where` names the row."""
    for i, message in enumerate(messages):
        found = known.found(message["content"])
        if found is not None:
            raise UserError(
                f"{where}: message {i + 1} ({message['role']}): found {found}, in "
                f"{message['content'][:60]!r}, wanted {PLAIN}, without them. In rollouts that are "
                "imported, `prompt_token_ids` beside it say how your trainer rendered it."
            )


def refuse_all(asked: Sequence[Prompt], tokenizer: Any) -> None:
    """Raises UserError naming the first prompt of the table that is rendered."""
    known = marks(tokenizer)
    for prompt in asked:
        refuse(f"prompts table, prompt_id {prompt.prompt_id}", prompt.messages, known)
