"""Find the final answer of a response: a box, `<answer>`, after `Answer:`, after `####`.

What a reasoning model thought is left out where something follows it. Text that explains the answer
on its line is cut; an answer that is a sentence is read once more for the one value in it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.tasks.math.written import PLACE, VALUE, prose

MOST = 100  # boxes of a list
MARKS = "*_`"  # of markdown, around an answer
THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
ENDS = re.compile(  # special tokens that are left in a text, and check marks
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<end_of_turn>"
    r"|<br ?/?>|</?(?:strong|em|div|span)>|[\u2705\u2713\u2714\u2611]"
)
TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
BOXES = re.compile(r"\\(?:boxed|fbox)\b(?:\s*(\{))?|\\.|[{}]", re.DOTALL)
WORD = "(?:answer|respuesta|r\u00e9ponse|antwort|\u043e\u0442\u0432\u0435\u0442|\u7b54\u6848)"
ANSWER = re.compile(
    WORD + r"(?:\*\*|__|[\"'])?"
    r"(?:[ \t]*[:=\uff1a\u662f\u4e3a](?:[ \t]*\})?|[ \t]+[-\u2013\u2014][ \t]+"
    r"|,[ \t]+(?=-?[$]?-?[0-9])"
    r"|[^.!?\n:=\uff1a]{0,60}?[ \t,](?:is|was|are|be|equals|comes to)\b"
    r"(?:\*\*)?[ \t]*(?:\*\*)?[:=\uff1a]?"
    r"|(?:\*\*|__)?[ \t]*\n)",
    re.IGNORECASE,
)
BEFORE = re.compile(  # 17 is the answer
    r"(?<=[ \t])(?:is|are)[ \t]{1,9}(?:the|our|my)[ \t]{1,9}"
    r"(?:(?:final|correct|right)[ \t]{1,9})?answers?\b(?!\s{1,9}(?:to\b.{0,60})?(?:is|was)\b)",
    re.IGNORECASE,
)
BEGUN = re.compile(r".*(?:[!?\n]|\.(?=\s))\s*|", re.DOTALL)  # what stands before the last sentence
SO = re.compile(r"(?:so|thus|hence|therefore|then),?\s+", re.IGNORECASE)
ABOUT = re.compile(  # "this answer is right" tells none
    r"[ \t]*(?:correct|right|wrong|incorrect|helpful|clear|reasonable|consistent|valid|verified"
    r"|confirmed|obtained|found|given|based|what|in the form|an integer)\b",
    re.IGNORECASE,
)
CALCULATOR = re.compile(r"<<[^<>]*>>")  # of GSM8K's solutions
BETWEEN = re.compile(
    r"(?:[\s,;$&]|\\[()\[\],;:! ]|\\q?quad\b|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b|\*\*"
    r"|[a-zA-Z](?:_\{?\w\}?)?\s*=)*"
)
OPENERS = {"$$": "$$", r"\[": r"\]"}
SENTENCE = re.compile(r"(?:(?<=[0-9}$)\]*`%!\u00b0])|(?<=[a-z]{2}))[.!?](?=\s+\S)")
REASON = re.compile(
    r"\s*[,;:]?\s+(?:because|since|so|thus|hence|therefore|which|where|as|given|rounded)\b.*"
    r"|\s*,\s*(?:because|since|so|thus|hence|therefore|which|where|as|given|rounded|not)\b.*"
    r"|\s+\((?!mod\b|base\b)(?:[a-z]{2,}\b|i\.e|e\.g|[=\u2248]|\\approx).*"
    r"|\s+(?:\u2014|\u2013|--?)\s+(?=[A-Za-z]{2}).*"
    r"|\s*(?:\u2248|\\approx\b)(?<!^).*"
    r"|\s*;\s+(?=[a-z]{2}).*",
    re.DOTALL,
)
SPANS = re.compile(r"\*\*(.+?)\*\*|\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
BOUND = re.compile(  # before a value that is none: not 42, more than 42
    r"(?:\bnot|\b(?:more|less|fewer|greater|larger|smaller|higher|lower) than|\bat (?:least|most))"
    r"\s*[$*(\\]*$",
    re.IGNORECASE,
)
NAKED = re.compile(r"\\(?:boxed|fbox)[ \t]+(?=[^\s{])")
LINK = re.compile(r"[\s,;]*(?:\b(?:and|or)\b)?[\s,;]*")


class Extracted(NamedTuple):
    text: str | None
    reason: str | None = None  # malformed: the last \boxed has no end
    boxes: tuple[str, ...] = ()  # what stands in all complete boxes, in their order


def extract(response: str) -> Extracted:
    """The final answer as the response has it, without marks of markdown around it."""
    *thoughts, last = (ENDS.sub(" ", x) for x in THOUGHT.split(response))
    found = _extract(last)
    if found.text is None and thoughts:
        found = found._replace(text=_only(last))
    return found if found.text is not None else _extract(ENDS.sub(" ", response))


def _only(text: str) -> str | None:
    """The one line that follows a thought, if a value stands in it."""
    line = text.strip()
    if "\n" in line or not (VALUE.search(line) or SPANS.search(line)):
        return None
    return _line(line)


def _extract(text: str) -> Extracted:
    broken, boxes = _boxes(text)
    reason = "malformed" if broken is not None else None
    tag = None
    for match in TAG.finditer(text):
        if match[1].strip():
            tag = match
    if tag is not None and (not boxes or tag.end() > boxes[-1][1]):
        inside = [box for box in boxes if tag.start() < box[0]]
        if not inside:
            phrase = _phrase(tag[1])
            return Extracted(phrase or clean(tag[1]) or None, reason)
        boxes = inside
    if boxes:
        contents = tuple(clean(text[start:end]) for start, end in boxes)
        return Extracted(_joined(text, boxes, contents) or None, reason, contents)
    phrase = _phrase(text)
    if phrase is None:
        place = text.rfind("####")
        phrase = _line(text[place + 4 :]) if place >= 0 else None
    if not phrase and (told := list(BEFORE.finditer(text))):
        head = text[max(0, told[-1].start() - 80) : told[-1].start()].strip()
        phrase = clean(SO.sub("", BEGUN.sub("", head, count=1), count=1))
    if not phrase and (naked := list(NAKED.finditer(text))):
        phrase = _line(text[naked[-1].end() :].partition("$")[0])
    return Extracted(phrase or None, reason)


def _joined(text: str, boxes: list[tuple[int, int]], contents: tuple[str, ...]) -> str:
    """The last box, with those before it that only `and`, commas and the like part from it."""
    listed, place = [contents[-1]], text.rfind("\\", 0, boxes[-1][0])
    for (start, end), content in zip(boxes[-2::-1], contents[-2::-1], strict=True):
        if (
            len(listed) == MOST
            or not end < place < end + 80
            or not BETWEEN.fullmatch(text, end + 1, place)
        ):
            break
        if content not in listed:
            listed.insert(0, content)
        place = text.rfind("\\", 0, start)
    return ", ".join(listed)


def _boxes(text: str) -> tuple[int | None, list[tuple[int, int]]]:
    """Where the last box that never closes begins, if after the last complete one; all the latter.

    The innermost of boxes in boxes. One pass, whatever the text: 100 kB of open boxes take no
    longer than 100 kB of prose.
    """
    opened: list[tuple[int, bool]] = []  # place after the brace, and whether it is a box's
    closed: list[tuple[int, int]] = []
    naked = -1
    for match in BOXES.finditer(text):
        token = match[0]
        if token == "{":
            opened.append((match.end(), False))
        elif token == "}":
            start, box = opened.pop() if opened else (-1, False)
            if box and (not closed or start > closed[-1][0]):
                closed.append((start, match.start()))
        elif match[1]:
            opened.append((match.end(), True))
        elif len(token) > 2:
            naked = match.end()
    last = max([naked, *(start for start, box in opened if box)])
    return (last if last > (closed[-1][0] if closed else -1) else None), closed


def _phrase(text: str) -> str | None:
    """The text after the last `Answer:`, `answer is` or the like; None where there is none."""
    matches = list(ANSWER.finditer(text))
    telling = [x for x in matches if not ABOUT.match(text, x.end())]
    for match in reversed(telling or matches):
        if found := _line(text[match.end() :]):
            return found
    return None


def _line(text: str) -> str:
    """The answer on the first line, without what explains it."""
    text = CALCULATOR.sub("", text).strip(f"{MARKS}: \t\r\n").removeprefix("####").lstrip()
    for left, right in OPENERS.items():
        if text.startswith(left) and right in text[2:]:
            return clean(text[2 : text.index(right, 2)])
    line = next(iter(text.splitlines()), "")
    ended = SENTENCE.search(line)
    return clean(line[: ended.start()] if ended else line)


def clean(text: str) -> str:
    """Strip the marks of markdown and the full stop around an answer."""
    text = NAKED.sub("", text.strip().strip(MARKS)).strip()
    if not re.search(r"\b[ap]\.\s?m\.$", text, re.IGNORECASE):
        text = text.removesuffix(".").removesuffix("\u3002").rstrip()
    text = text.strip(MARKS).strip()
    return text.removesuffix("$$") if text.count("$$") == 1 else text


def readings(extracted: Extracted, several: int) -> Iterator[str]:
    """The answer as it stands, then without its reason, then the one value that its prose names.

    `several` is how many values a list has that is asked for: as many boxes are one answer.
    """
    assert extracted.text is not None
    yield extracted.text
    boxes = tuple(dict.fromkeys(extracted.boxes))
    if several > 1 and len(boxes) == several:
        yield ", ".join(boxes)
    if not boxes and extracted.text.endswith("!"):  # 5! may be a factorial or a cry
        yield extracted.text.rstrip("!")
    short = REASON.sub("", extracted.text).strip()
    if short and short != extracted.text:
        yield clean(short)
    if prose(short or extracted.text) and (value := _value(short or extracted.text, bool(boxes))):
        yield value


def _value(text: str, only: bool) -> str | None:
    """The value that a sentence names: its mathematics or bold text, else its number.

    The first if it begins with it, else the last; a list where only `and` and commas part them.
    `only` where there must be no other: a box holds an answer and no explanation.
    """
    inside = {x: next(filter(None, x.groups())) for x in SPANS.finditer(text)}
    spans = [x for x, content in inside.items() if not prose(content)]
    if spans:
        run = _run(text, spans, only)
        if not run:
            return None
        return ", ".join(inside[x] for x in run) + (PLACE.match(text, run[-1].end()) or [""])[0]
    text = text.rpartition("=")[2].lstrip() or text
    return ", ".join(x[0].strip() for x in _run(text, list(VALUE.finditer(text)), only)) or None


def _run(text: str, matches: list[re.Match[str]], only: bool) -> list[re.Match[str]]:
    """The first or the last of the matches, with those that it makes a list with."""
    if not matches:
        return []
    runs = [[matches[0]]]
    for match in matches[1:]:
        if LINK.fullmatch(text[runs[-1][-1].end() : match.start()]):
            runs[-1].append(match)
        else:
            runs.append([match])
    if only and len(runs) > 1:
        return []
    run = runs[0] if LINK.fullmatch(text[: matches[0].start()]) else runs[-1]
    return [] if BOUND.search(text[: run[0].start()]) else run
