"""Tokens of a reply: as its usage says, and counted where it says nothing or too little.

What is billed, budgeted and entered is never less than what the answers hold. llama.cpp's usage has
the tokens of choice 0 alone, whatever n is.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.judgments.keys import Prompt
from pipeline.teachers.wire.calls import Choice, Reply

CHARACTERS_PER_TOKEN = 3.0  # fewer than in prose; text full of digits can have still fewer
MANY_CHARACTERS = 8.0  # for a token: text has fewer, so a reply with more counts too little
CLOSE = 0.8  # tokens sampled for a text, of those that a tokenizer makes of it, at least


def tokens(prompt: Prompt) -> float:
    """Tokens of a prompt; estimated from its characters where it is text."""
    return len(prompt) / CHARACTERS_PER_TOKEN if isinstance(prompt, str) else len(prompt)


class Counted(NamedTuple):
    prompt: int
    completion: int  # of the whole reply
    choices: list[int]  # completion tokens of each choice, in the reply's order
    doubt: str = ""  # what of the usage was not believed


def counted(
    reply: Reply, read: int, limit: int, first_alone: bool, count: Callable[[str], int | None]
) -> Counted:
    """The tokens of a reply to a prompt of about `read` tokens, asked for up to `limit` a choice.

    `first_alone` says that usage has choice 0 alone; `count` counts the tokens of a text where the
    teacher's tokenizer is known. The end of an answer is a token of it, as servers count it.
    """
    said, choices = reply.completion_tokens, reply.choices
    prompt, doubts = reply.prompt_tokens or read, []
    if not reply.prompt_tokens:
        doubts.append("prompt_tokens")
    if not said and any(choice.text for choice in choices):
        said = None
    if said is None:
        doubts.append("completion_tokens")
    doubt = f"its usage says no {' and no '.join(doubts)} that can be true" if doubts else ""
    if len(choices) == 1 and said is not None:
        return Counted(prompt, said, [said], doubt)
    own = [_own(choice, count) for choice in choices]
    if said is None:
        found = [_at_most(*pair, limit) for pair in zip(choices, own, strict=True)]
    elif first_alone:
        found = [_beside(*pair, reply, limit) for pair in zip(choices, own, strict=True)]
    elif said < (least := _least(choices, own)):
        found = [_at_most(*pair, limit) for pair in zip(choices, own, strict=True)]
        doubt = f"its usage has {said} tokens for {len(choices)} choices that hold {least} at least"
    elif all(choice.token_ids is not None for choice in choices):
        return Counted(prompt, said, [len(choice.token_ids or ()) for choice in choices], doubt)
    else:
        weights = [
            len(choice.text) + 1 if tokens is None else tokens
            for choice, tokens in zip(choices, own, strict=True)
        ]
        return Counted(prompt, said, shares(said, weights), doubt)
    return Counted(prompt, sum(found), found, doubt)


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts in proportion to `weights`, one each at least where it suffices."""
    least = 1 if total >= len(weights) else 0
    rest, sum_ = total - least * len(weights), sum(weights)
    exact = [rest * weight / sum_ if sum_ else rest / len(weights) for weight in weights]
    parts = [math.floor(part) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_rest[: rest - sum(parts)]:
        parts[i] += 1
    return [least + part for part in parts]


def _own(choice: Choice, count: Callable[[str], int | None]) -> int | None:
    """Tokens of one choice by itself, its end included, where something can count them."""
    if choice.token_ids is not None:
        return len(choice.token_ids)
    found = count(choice.text) if choice.tokens is None else choice.tokens
    return None if found is None else found + choice.ended


def _at_most(choice: Choice, own: int | None, limit: int) -> int:
    """Tokens of a choice of which no usage tells: rather too many, as budgets have to hold."""
    if own is not None:
        return own
    if not choice.ended:
        return limit
    found, fits = _estimate(choice), len(choice.text) <= MANY_CHARACTERS * limit
    return min(found, limit) if fits else found  # else the limit did not hold, which shows


def _beside(choice: Choice, own: int | None, reply: Reply, limit: int) -> int:
    """Tokens of a choice of a reply whose usage has those of choice 0 alone.

    What was cut has as many as were allowed: the tokenizer could make more or fewer of its text.
    """
    said = reply.completion_tokens or 0
    if choice.sample == 0:
        return said
    if not choice.ended:  # at the limit, or where the context was full, which is so for all
        return said if any(c.sample == 0 and not c.ended for c in reply.choices) else limit
    return _estimate(choice) if own is None else own


def _estimate(choice: Choice) -> int:
    return math.ceil(len(choice.text) / CHARACTERS_PER_TOKEN) + 1


def _least(choices: Sequence[Choice], own: Sequence[int | None]) -> int:
    """Tokens that the choices hold at least."""
    return math.floor(
        sum(
            len(choice.text) / MANY_CHARACTERS if tokens is None else CLOSE * tokens
            for choice, tokens in zip(choices, own, strict=True)
        )
    )
