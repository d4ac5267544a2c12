"""An answer as the student's tokens: cut to those that are wanted, or too short for them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import Tokenizer

from pipeline.core.errors import UserError
from pipeline.data import text as texts
from pipeline.judgments.schema import Judgment
from pipeline.teachers import continuations, protocol
from pipeline.teachers.purchase.requests import Response


class Prefix(NamedTuple):
    """The text that an answer follows."""

    text: str  # of the student's response up to the fork
    before: list[int]  # the last student ids up to the fork, those of the prompt included
    lead: str = ""  # blanks that the student's template writes before an answer


class Cut(NamedTuple):
    text: str
    ended: bool
    tokens: int  # student tokens of the cut text, the end included
    token_ids: list[int]  # those of them that are whole characters, without the end


def cut(
    judgment: Judgment,
    said: protocol.Said,
    prefix: Prefix,
    same_tokens: bool,
    student: Tokenizer,
    limit: int,
) -> Cut:
    """The first `limit` student tokens of an answer. An end within them counts as one token.

    Its own ids where they are the student's; else those of its text behind the prefix. A character
    that the cut leaves incomplete is dropped. Raises UserError if the answer stops short of the
    limit because of its own token limit.
    """
    ids = _ids(judgment, said, prefix, same_tokens, student)
    own = same_tokens and said.token_ids is not None
    if not own and (lacks := _lacks(judgment, said, ids, limit)):
        raise UserError(
            f"teach: an answer is too short: {lacks}. Use a shorter forks.chunk_tokens."
        )
    length = len(ids) + said.ended
    decode = functools.partial(texts.decode, student)
    before = prefix.before if prefix.text else []
    kept, text = texts.characters(decode, before, ids[:limit])
    return Cut(text, said.ended and length <= limit, min(length, limit), kept)


def _ids(
    judgment: Judgment, said: protocol.Said, prefix: Prefix, same_tokens: bool, student: Tokenizer
) -> list[int]:
    """All student tokens of an answer, without its end."""
    if same_tokens and said.token_ids is not None:
        return said.token_ids
    text = said.text
    if judgment.continuation == "instruct":
        text = continuations.trim(prefix.text, text).text
    if not prefix.text and not text[:1].isspace():
        text = prefix.lead + text
    return texts.encode_after(student, prefix.before, text)


def _lacks(judgment: Judgment, said: protocol.Said, ids: list[int], limit: int) -> str | None:
    """Say what an answer that was cut lacks of `limit` student tokens; None: nothing."""
    if said.ended or len(ids) >= limit:
        return None
    return (
        f"its {judgment.completion_tokens} tokens of at most {judgment.token_limit} are only "
        f"{len(ids)} student tokens long, wanted {limit}"
    )


def lacking(
    teacher: protocol.Teacher, student: Tokenizer, limit: int, lead: str = ""
) -> Callable[[Response, int, Judgment], str | None]:
    """Return a function that says what a response's answer at a position lacks of `limit` tokens.

    It says nothing where the answer's own ids are the student's: all that was wanted was asked for.
    """

    def lacks(response: Response, position: int, judgment: Judgment) -> str | None:
        prefix = prefix_of(response, position, lead)
        said = teacher.said(response.prompts[position], prefix.text, judgment)
        if teacher.same_tokens and said.token_ids is not None:
            return None
        ids = _ids(judgment, said, prefix, False, student)
        return _lacks(judgment, said, ids, limit)

    return lacks


def prefix_of(response: Response, position: int, lead: str) -> Prefix:
    return Prefix(response.prefixes[position], response.before.get(position, []), lead)
