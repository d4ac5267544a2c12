"""Does an answer continue the prefix? Mode instruct asks for it in words, so it must be checked.

A teacher without prefill gets the prefix quoted in a user message. It may then repeat the end of
it (trimmed), announce what it does (trimmed), refuse, or start over: the last two are failures,
kept with their reason and drawn again. What is stored is the raw text; trimming is a function of
prefix and raw text, so it can be improved without buying anything again.
"""

import re
from dataclasses import dataclass
from typing import Literal

Failure = Literal["refusal", "restart", "failed-empty"]

OPEN, CLOSE = "<answer_so_far>", "</answer_so_far>"
INSTRUCTION = """{problem}

---
An answer to the request above has been begun. It stands between the tags and breaks off, maybe in
the middle of a word:
{open}
{prefix}
{close}
Write what comes next, from the very next character to the end of the answer, in the same style.
Do not repeat anything that stands between the tags, do not comment, do not use the tags."""

REFUSAL = re.compile(
    r"\s*(i['\u2019]?m sorry|i am sorry|i apologi[sz]e|sorry)?[,.]?\s*(but )?(as an ai\b|"
    r"i( can['\u2019]?t| cannot| can not| won['\u2019]?t|( am|['\u2019]m) (not able|unable) to) "
    r"(\w+ ){0,2}?(help|assist|continue|comply|provide|do that|write|fulfil|answer))",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"\s*(sure|certainly|of course|okay|ok|here(['\u2019]s| is| are)|continuing|the continuation|"
    r"continuation)\b[^\n]{0,120}?(:|!|\.)[ \t]*\n+",
    re.IGNORECASE,
)
LEAST_OVERLAP = 8  # characters; a shorter repeat is as likely what the answer goes on with
LEAST_RESTART = 12  # characters of the prefix's beginning that show a fresh start


@dataclass(frozen=True)
class Trimmed:
    """An instruct answer without what was no continuation."""

    text: str
    overlap: int  # characters of the prefix that the answer repeated
    preamble: bool


def instruct(messages: list[dict[str, str]], prefix: str) -> list[dict[str, str]]:
    """The messages that ask for a continuation of `prefix` in words."""
    if not prefix:
        return messages
    *before, last = messages
    text = INSTRUCTION.format(problem=last["content"], open=OPEN, prefix=prefix, close=CLOSE)
    return [*before, {"role": last["role"], "content": text}]


def trim(prefix: str, raw: str) -> Trimmed:
    """`raw` without an announcement before it, the tags, or a repeat of the end of `prefix`."""
    text, count = PREAMBLE.subn("", raw, count=1) if PREAMBLE.match(raw) else (raw, 0)
    text = text.replace(OPEN, "", 1) if text.lstrip().startswith(OPEN) else text
    text = text.split(CLOSE, 1)[0] if CLOSE in text else text
    overlap = _overlap(prefix, text.lstrip())
    if overlap:
        text = text.lstrip()[overlap:]
    return Trimmed(text, overlap, bool(count))


def _overlap(prefix: str, text: str) -> int:
    """Length of the longest end of `prefix` that `text` begins with, where it is a repeat.

    A short one counts only if it is the word in whose middle the prefix breaks off.
    """
    tail = prefix.rstrip()
    for length in range(min(len(tail), len(text)), 0, -1):
        if text.startswith(tail[-length:]):
            word = re.search(r"\w+$", tail)
            broken = word is not None and len(word[0]) == length >= 2 and len(tail) == len(prefix)
            goes_on = len(text) > length and text[length].isalnum()
            return length if length >= LEAST_OVERLAP or (broken and goes_on) else 0
    return 0


def failure(prefix: str, raw: str, ended: bool) -> Failure | None:
    """Why an instruct answer may not be scored, or None."""
    if REFUSAL.match(raw):
        return "refusal"
    trimmed = trim(prefix, raw)
    if not trimmed.text.strip():
        return None if ended and not trimmed.preamble else "failed-empty"
    if trimmed.overlap > len(trimmed.text):
        return "restart"  # most of the tokens went into the repeat
    if trimmed.overlap:
        return None
    start, text = prefix.lstrip()[:LEAST_RESTART], trimmed.text.lstrip()
    whole = len(prefix.strip()) >= LEAST_RESTART
    return "restart" if whole and text.startswith(start) else None
