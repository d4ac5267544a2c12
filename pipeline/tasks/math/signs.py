"""A written answer without the signs that only say that it is mathematics, the others in LaTeX."""

# ruff: noqa: RUF001 - signs that are no ASCII are what this is about

import re
import unicodedata

SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2013\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u2005\u2006\u2007\u2008", " "),
    **dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff", ""),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/"},
    **{"π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup "},
    **{"∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "％": "%", "°": r"^\circ"},
    **{"θ": r"\theta ", "，": ", ", "（": "(", "）": ")", "＝": "=", "º": r"^\circ"},
}
NAMES = {r"\varnothing": r"\emptyset", r"\langle": "(", r"\rangle": ")"}
SIGNS |= {chr(0xFF10 + i): str(i) for i in range(10)}
TABLE = str.maketrans(SIGNS)
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
LOWERED = re.compile("[₀-₉]+")
VULGAR = re.compile("([0-9]?)([¼-¾⅐-⅞])")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9a-zA-Z.]+))")
WRAPS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
GAP = r"(?:\\[,;:! ]|\{,\}|~|\s)"
THOUSANDS = re.compile(r"(?<=[0-9])(?:,?\\[,;:! ]|\{,\}|,\{\}|~)+\s*(?=[0-9]{3}(?![0-9]))")
COMMAS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9]|,[0-9])")
STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|left|right|[bB]igg?|tiny|small|large|Large|LARGE|huge|Huge)"
    r"(?![a-zA-Z])\s*"
)
LABEL = re.compile(r"\\text(?:bf|rm|it)?\s*\{[^{}]*:\s*\}\s*(?=\S)")  # \text{Answer: } 17
COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]*\}\s*")
POWER = re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[\w(-])")  # of Python
PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")
PART = re.compile(r"([0-9]+)\s+and\s+(?:a|one)[ -](half|third|quarter|fourth)s?\b")
PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4}
TEXT = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt)?|mbox|math(?:rm|bf|it)|bf|boldsymbol|underline|operatorname)\s*\{"
)
LEAD = re.compile(
    r"(?:=|\\approx|\\(?:sim|simeq)\b|≈|~(?!~)"
    r"|\b(?:approximately|about|exactly|roughly|equal to)\b)\s*",
    re.IGNORECASE,
)


def bare(text: str) -> str:
    """An answer without the signs that only say that it is mathematics; others in LaTeX's words."""
    text = VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}".strip(), text)
    text = RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = PART.sub(lambda m: f"{m[1]} 1/{PARTS[m[2]]}", POWER.sub("^", PI.sub(r"\\pi ", text)))
    text = COLOR.sub("", STYLE.sub("", text.translate(TABLE)))
    for name, sign in NAMES.items():
        text = text.replace(name, sign)
    text = LABEL.sub("", text.strip()) if LABEL.match(text.strip()) else text.strip()
    before = ""
    while before != text:
        before, text = text, _unwrapped(text)
    return (
        COMMAS.sub(_ungrouped, THOUSANDS.sub("", text))
        if not _open(text)
        else THOUSANDS.sub("", text)
    )


def _ungrouped(match: re.Match[str]) -> str:
    return match[1].replace(",", "")


def _open(text: str) -> bool:
    """Whether a comma in it may part two coordinates: (1,200)."""
    return text[:1] in "([{" or text.startswith(r"\{")


def _unwrapped(text: str) -> str:
    text = text.strip()
    for left, right in WRAPS:
        inner = text[len(left) : len(text) - len(right)]
        if len(text) > len(left + right) and text == f"{left}{inner}{right}" and left not in inner:
            text = inner.strip()
    match = TEXT.match(text)
    if match and text.endswith("}") and _closes(text, match.end()) == len(text) - 1:
        text = text[match.end() : -1].strip()
    if text[:1] == "{" and _closes(text, 1) == len(text) - 1:
        text = text[1:-1].strip()
    if (match := LEAD.match(text)) and match.end() < len(text):
        text = text[match.end() :]
    return text


def _closes(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return -1
