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

# "I can't help but", "I cannot write 2/3 as" and "As an AI researcher" are parts of an answer.
REFUSAL = re.compile(
    r"\s*(as an ai( language)?( model| assistant)?,? i\b|"
    r"((i['\u2019]?m|i am) (very |so )?sorry|i apologi[sz]e|sorry|unfortunately)?[,.]?\s*(but )?"
    r"i( can['\u2019]?t| cannot| can not| won['\u2019]?t|( am|['\u2019]m) (not able|unable) to) "
    r"(\w+ly )?((assist|comply|provide|generate|fulfill?|help( you)? with)\b|"
    r"(help|continue|complete|write|create|answer|do)( with)? "
    r"(that|this|your|(the|a) (request|continuation|text|answer|response))\b))",
    re.IGNORECASE,
)
YES = r"(sure( thing)?|certainly|of course|absolutely|okay|ok)"
WORK = r"(answer|response|text|solution|story)"
TASK = (
    rf"(continuation|(rest|remainder) of (the|your) {WORK}|what comes next|next (part|words?)|"
    rf"(left|breaks|broke) off|continu(ed|ing)( from)? (the|your) (\w+ )?{WORK})"
)
# A bare "Sure!" or a line about the task. "Sure enough, ..." and "Here are the three cases:" are
# parts of an answer.
PREAMBLE = re.compile(
    rf"(\s*[*_#]*\s*({YES}[.!]+[*_]*[ \t]*\n+|({YES}[!.,]*\s+)?"
    r"(?=(here(['\u2019]s| is| are)|i['\u2019]ll|i will|continuing|(the )?continuation)\b)"
    rf"(?=[^\n]{{0,120}}?\b{TASK}\b)[^\n:]{{0,160}}"
    r"(:[*_]*(\s+|$)|([.!]|(?<=continuation))[*_]*[ \t]*(\n+|$))))+",
    re.IGNORECASE,
)
LEAST_OVERLAP = 8  # characters; a shorter repeat is as likely what the answer goes on with
LEAST_FORMULA = 16  # the same inside a formula: (2x + 1)(2x + 1) repeats nothing
# characters of the prefix's beginning that show a fresh start: more than "The number of apples" and
# "The number of pears" share
LEAST_RESTART = 40


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
    if not prefix:  # asked in the problem's own words
        return Trimmed(raw, 0, False)
    announced = PREAMBLE.match(raw)
    text = raw[announced.end() :] if announced else raw
    text = text.replace(OPEN, "", 1) if text.lstrip().startswith(OPEN) else text
    overlap = 0
    for part in text.partition(CLOSE)[::2]:  # behind the tag only if there is nothing new before it
        repeated = _overlap(prefix, part)
        text, overlap = part.lstrip()[repeated:] if repeated else part, overlap + repeated
        if text.strip():
            break
    return Trimmed(text, overlap, announced is not None)


def _overlap(prefix: str, text: str) -> int:
    """Length of the longest end of `prefix` that `text` begins with, where it is a repeat."""
    tail, start = prefix.rstrip(), text.lstrip()
    for length in range(min(len(tail), len(start)), 0, -1):
        if start.startswith(tail[-length:]):
            before, repeat, after = tail[:-length], tail[-length:], start[length:]
            spaced = start != text or tail != prefix
            broken = not spaced and _broken(before, repeat, after)
            is_one = length >= _least(before, repeat) or broken
            return length if is_one and not _loops(before, repeat, after) else 0
    return 0


def _least(before: str, repeat: str) -> int:
    """The length from which a repeated text counts as a repeat."""
    if not before.strip() and repeat[0].isalpha():
        return 2  # all there is: nothing says the same twice from its first word on
    if not before or before.endswith("\n") or re.search(r"(?<![\\\w])[^\W\d_]{3}", repeat):
        return LEAST_OVERLAP
    return LEAST_FORMULA


def _loops(before: str, repeat: str, after: str) -> bool:
    """Whether it says again what was being said again and again: then it goes on."""
    periods = range(1, (len(repeat) + (" " in repeat)) // 2 + 1)
    return (
        before.rstrip().endswith(repeat)
        or after.lstrip().startswith(repeat)
        or any(repeat[period:] == repeat[:-period] for period in periods)
    )


def _broken(before: str, repeat: str, after: str) -> bool:
    """Whether `prefix` breaks off in the middle of a word that the answer writes whole.

    Not if it ends in a word that it has used before: in `the` + `theorem` no word is broken.
    """
    inside = len(repeat) >= 2 and repeat.isalnum() and after[:1].isalnum()
    used = re.search(rf"\b{re.escape(repeat)}\b", before)
    return inside and not before[-1:].isalnum() and not used


def failure(prefix: str, raw: str, ended: bool) -> Failure | None:
    """Why an instruct answer may not be scored, or None."""
    quoting = prefix.count('"') % 2 or prefix.count("\u201c") > prefix.count("\u201d")
    if REFUSAL.match(raw) and not quoting:
        return "refusal"
    trimmed = trim(prefix, raw)
    text = trimmed.text.strip()
    if not text:
        return None if ended and not trimmed.preamble else "failed-empty"
    if not ended and 2 * (len(raw.strip()) - len(text)) > len(text):
        return "restart"  # the token limit has room for half as much again, and it went elsewhere
    start = prefix.strip()[:LEAST_RESTART]
    again = len(start) == LEAST_RESTART and text.startswith(start) and not trimmed.overlap
    return "restart" if again else None
