"""Which problems are one problem written twice, so that none that tests is trained on.

Compared is what `key` leaves of a text, not the text: blanks, case, typography, markup, a heading
like `Question:` and the punctuation of prose are no difference; numbers, operators, brackets and
whatever else carries meaning in mathematics are.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

Messages = Sequence[Mapping[str, str]]

LONG = 40  # characters of a key from which the last of several user turns is a problem by itself
SHORT = 12  # characters of a key without a digit that says something inside another text

NAMES = r"question|problem|exercise|example|task|query|prompt|user|human|input|q"
NUMBER = r"(?:(?:no\.?|number|#)?\s*\d+(?:\.\d+)*[a-z]?)"
HEADER = re.compile(
    rf"\s*(?:#+\s*)?(?:[\[(<]?(?:{NAMES})\s*{NUMBER}?\s*(?:[:.)\]>](?!\d)|\n)"
    rf"|(?:question|problem|exercise|task)\s*{NUMBER}?\s+-\s+(?=[a-z]{{2}})"
    r"|\(?\d{1,3}[.)]\s+(?=[a-z]{2}))"
)
FOOTER = re.compile(r"(?:\b(?:answer|solution|response|assistant)|(?:^|\s)a)\s*:\s*$|</\w+>\s*$")
EMPHASIS = re.compile(
    r"(?<![\w)\]*])(\*{1,3}|__?)(?=[^\s*_])([^*\n]{1,500}?)(?<=[^\s*])\1(?![\w(\[*])"
)
BULLET = re.compile(r"^[^\S\n]*(?:#+|[-*\u2022>]+)\s+(?=[^\W\d_]{2})", re.MULTILINE)
LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|left\b|right\b|displaystyle\b)|~(?=\S)")
LATEX_BRACES = re.compile(r"([\^_])\{(\w)\}")  # around one sign they change nothing
LATEX_FRACTION = re.compile(r"\\[dt]frac\b")
DELIMITERS = re.compile(r"\\[()\[\]]|\$+|`+")
ESCAPED = re.compile(r"\\([%#&])")
THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\d,]|\.\d{4})")
TOKEN = re.compile(r"\d+(?:\.\d+)+|\.\d+|\d+|[^\W\d_]+|\s+|_+|.", re.DOTALL)
FUNCTION = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|sqrt|abs|det|max|min|gcd|lcm|mod|floor"
    r"|ceil|sum|pi|frac"
)
KEPT = frozenset("%/\\*&@#")  # of the category P; brackets are kept, too
SAME = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2018\u2019\u201b\u2032\u02bc\u00b4", "'"),
    **dict.fromkeys("\u00d7\u22c5\u00b7\u2217\u2219", "*"),
    **dict.fromkeys("\u2044\u2215\u00f7", "/"),
}  # signs that people write for one another
WRITTEN = str.maketrans(SAME)
QUOTES = frozenset("\u201a\u201e\u300c\u300d\u300e\u300f\u301d\u301e\u301f\u300a\u300b\u3010\u3011")


def key(text: str) -> str:
    """The part of a problem's text that is compared. Equal keys: one problem.

    In this order: superscripts become `^` and vulgar fractions keep their distance; NFKC and case
    folding; one sign for the several dashes, primes, multiplication and division signs; no marks
    of Markdown and LaTeX that only set type; no heading (`Question:`, `Problem 3.`, `## Task`) and
    no `Answer:` at the end; no commas of thousands; then token by token (`_kept`) no punctuation
    and no blanks. Two numbers stay apart. A text that is all punctuation is compared as it is.
    """
    kept = unicodedata.normalize("NFKC", _raised(text)).translate(WRITTEN)
    kept = "".join(x for x in kept if unicodedata.category(x) not in ("Cf", "Cc") or x in "\n\t")
    folded = unicodedata.normalize("NFKC", kept.casefold())
    kept = LATEX_FRACTION.sub(r"\\frac", LATEX_SPACE.sub(" ", folded.replace("{,}", ",")))
    kept = LATEX_BRACES.sub(r"\1\2", kept)
    kept = ESCAPED.sub(r"\1", DELIMITERS.sub(" ", kept))
    kept = BULLET.sub("", EMPHASIS.sub(r"\2", kept))
    kept = _unheaded(kept)
    kept = THOUSANDS.sub(lambda match: match[0].replace(",", ""), kept)
    return _joined(TOKEN.findall(kept)) or "".join(folded.split())


def keys(messages: Messages, prompt: str) -> frozenset[str]:
    """The keys of a problem: two are one if they share one.

    That of its plain text; of a conversation that of all turns, and that of the last user's turn
    where the user spoke once, or where it is long enough to be a problem of its own and no
    `Go on.`: the same question under another system prompt is the same problem.
    """
    unique = {key(prompt)}
    if len(messages) > 1:
        unique = {"\x1e".join(f"{x['role']}:{key(x['content'])}" for x in messages)}
        said = [x["content"] for x in messages if x["role"] == "user"]
        last = key(said[-1]) if said else ""
        if said and (len(said) == 1 or len(last) >= LONG):
            unique.add(last)
    return frozenset(unique)


def shown_in(problem: str, instruction_key: str) -> bool:
    """Whether a problem stands in a text that every prompt holds, whose `key` is given."""
    problem_key = key(problem)
    if len(problem_key) < 3 or (
        len(problem_key) < SHORT and not any(x.isdigit() for x in problem_key)
    ):
        return False
    start = instruction_key.find(problem_key)
    while start >= 0:
        end = start + len(problem_key)
        before, after = instruction_key[start - 1 : start], instruction_key[end : end + 1]
        cut = (problem_key[0].isdigit() and (before.isdigit() or before == ".")) or (
            problem_key[-1].isdigit() and (after.isdigit() or after == ".")
        )
        if not cut:
            return True
        start = instruction_key.find(problem_key, start + 1)
    return False


def _raised(text: str) -> str:
    """NFKC makes `x2` of x with a small raised 2, and `11/2` of 1 and a sign for a half."""
    signs, before = [], ""
    for sign in text:
        kind = unicodedata.decomposition(sign).partition(" ")[0]
        if kind in ("<super>", "<sub>") and kind != before and not sign.isspace():
            signs.append("^" if kind == "<super>" else "_")
        if kind == "<fraction>":
            signs.append(" ")
        signs.append(sign)
        before = kind
    return "".join(signs)


def _unheaded(text: str) -> str:
    found = text
    while (match := HEADER.match(found)) is not None:
        found = found[match.end() :]
    found = FOOTER.sub("", found)
    return found if any(x.isalnum() for x in found) else text


def _joined(tokens: Sequence[str]) -> str:
    found: list[str] = []
    for token in _kept(tokens):
        if found and found[-1][-1].isdigit() and (token[0].isdigit() or token[0] == "."):
            found.append(" ")
        found.append(token)
    return "".join(found)


def _kept(tokens: Sequence[str]) -> Iterator[str]:
    """The tokens that carry meaning: words, numbers, symbols (category S), brackets, KEPT, and
    `-`, `'`, `!`, `_` where a number, a letter that stands alone or a symbol is beside them."""
    words = [x for x in enumerate(tokens) if not x[1].isspace()]
    for at, (place, token) in enumerate(words):
        before = words[at - 1][1] if at else ""
        after = words[at + 1][1] if at + 1 < len(words) else ""
        category = unicodedata.category(token[0])
        if category[0] != "P" or token[0].isdigit() or token in KEPT or len(token) > 1:
            if not token.startswith("__"):  # a gap to fill in
                yield token
        elif category in ("Ps", "Pe"):
            if token not in QUOTES:
                yield token
        elif token == "_":
            yield token
        elif token == "-":
            apart = place > 0 and place + 1 < len(tokens) and tokens[place + 1].isspace()
            if not (_prose(before) or (before[:1].isdigit() and not apart)) or not _prose(after):
                yield token
        elif (token == "'" and _operand(before)) or (
            token == "!" and (_operand(before) or after == "=")
        ):
            yield token


def _prose(token: str) -> bool:
    """A word, or nothing: no operand."""
    return not token or (len(token) > 1 and token.isalpha() and not FUNCTION.fullmatch(token))


def _operand(token: str) -> bool:
    return token[:1].isdigit() or (len(token) == 1 and token.isalpha()) or token in (")", "]", "'")
