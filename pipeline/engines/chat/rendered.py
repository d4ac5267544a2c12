"""A prompt as a chat template writes it, and what of it the messages do not say.

The rendering is held against one of the same messages whose contents are marks. What is left there
without marks, special tokens, tags and names of roles is text that the template adds.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]
NAMED = 40  # characters of a message by which a warning names it
QUOTED = 160  # characters of added text in a warning
MARK = re.compile("\ue000\\d+\ue001")  # stands for a message: no letters, nothing a template cuts
# <|im_start|>, <start_of_turn>, <<SYS>>, </s>, [INST], ◁think▷; DeepSeek's bars are full-width
TAG = re.compile(r"<[|\uff5c][^<>\n]{0,60}?>|<{1,2}/?[\w:|-]{1,40}>{1,2}|\[/?\w{2,30}\]|◁/?\w+▷")
CLOSED = re.compile(r"\[/\w+\]")  # a tag that ends what the user says: [/INST]
SPEAKERS = {"assistant", "model", "ai", "bot", "chatbot", "gpt", "response", "output", "answer"}
SPEAKERS |= {"助手", "答"}
ROLES = SPEAKERS | {"user", "human", "system", "developer", "tool", "ipython", "instruction"}
ROLES |= {"instructions", "input", "question", "prompt", "query", "q", "a", "用户", "系统", "问"}
ROLES |= {"final", "analysis", "commentary"}  # channels of the Harmony format
_NAMES = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reflection)"
THINK = re.compile(
    rf"(?P<open><{_NAMES}>|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought)\|>|"
    r"<\|channel\|>analysis)|"
    rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought|end)\|>",
    re.IGNORECASE,
)


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, owner: str, generate: bool = True
) -> str:
    """Call templates.render; transformers is imported only where something is rendered."""
    from pipeline.engines.chat import templates

    return templates.render(tokenizer, messages, owner, generate)


@dataclass(frozen=True)
class Reading:
    """A prompt as one side reads it, in the forms that are compared."""

    messages: Messages
    text: str  # with the generation prompt
    marked: str  # the same, with marks as contents
    bare: str  # marked, without the generation prompt
    turn: str  # what stands between a user's and an assistant's message; empty if nothing is seen
    tokens: tuple[str, ...]  # the tokenizer's own that are no words, longest first

    @property
    def tail(self) -> str:
        """The text after the last message that is there."""
        return MARK.split(self.marked)[-1]


def mark(index: int) -> str:
    return f"\ue000{index}\ue001"


def read(tokenizer: "PreTrainedTokenizerBase", messages: Messages, owner: str) -> Reading:
    """Render `messages` as `owner` reads them. Raises UserError where its template refuses."""
    text = render(tokenizer, messages, owner)
    marks = [
        message | {"content": mark(i)} if message["content"].strip() else message
        for i, message in enumerate(messages)
    ]
    try:
        marked, bare = (render(tokenizer, marks, owner, generate) for generate in (True, False))
    except UserError:  # it looks into the contents
        marked, bare = _marked(text, messages), ""
    return Reading(messages, text, marked, bare, _turn(tokenizer, owner), _tokens(tokenizer))


def _marked(text: str, messages: Messages) -> str:
    for i in sorted(range(len(messages)), key=lambda i: -len(messages[i]["content"])):
        content = messages[i]["content"].strip()
        text = text.replace(content, mark(i), 1) if content else text
    return text


def _turn(tokenizer: "PreTrainedTokenizerBase", owner: str) -> str:
    roles = ("user", "assistant", "user")
    probe = [{"role": role, "content": mark(i)} for i, role in enumerate(roles)]
    try:
        shown = render(tokenizer, probe, owner, generate=False)
    except UserError:
        return ""
    found = re.search(f"{mark(0)}(.*?){mark(1)}", shown, re.DOTALL)
    return found[1] if found else ""


def _tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """The special and added tokens, without added ones that are words: a text is made of these."""
    found = {str(token) for token in tokenizer.all_special_tokens}
    found |= {token for token in tokenizer.get_added_vocab() if not token.strip().isalpha()}
    return tuple(sorted((t for t in found if t.strip()), key=len, reverse=True))


def warnings(student: Reading | None, teacher: Reading | None) -> list[str]:
    """A sentence for each thing that a reader of the messages would not expect in a prompt.

    None stands for a side whose prompt is not known: a provider renders it, or there is no student.
    """
    sides = [("teacher", teacher, "student", student), ("student", student, "teacher", teacher)]
    return [
        warning
        for name, own, other_name, other in sides
        if own is not None
        for warning in _warnings(name, own, other_name, other)
    ]


def shared(student: Reading | None, teacher: Reading | None) -> list[str]:
    """Text that both templates add."""
    if student is None or teacher is None:
        return []
    theirs = added(teacher)
    return [piece for piece in added(student) if piece in theirs]


def _warnings(name: str, own: Reading, other_name: str, other: Reading | None) -> list[str]:
    found = []
    for message in missing(own):
        found.append(f"The {name}'s prompt lacks the {_named(message)}: its template drops it.")
    for message in altered(own):
        found.append(f"The {name}'s prompt holds the {_named(message)} only in part or changed.")
    theirs = [] if other is None else added(other)
    extra = [piece for piece in added(own) if piece not in theirs]
    if extra:
        lacks = "" if other is None else f", and the {other_name}'s lacks it"
        quoted = _cut(" ".join(extra), QUOTED)
        found.append(f"The {name}'s prompt has text that no message has{lacks}: {quoted!r}.")
    if tag := open_think(own):
        found.append(
            f"The {name}'s prompt ends inside an open think block ({tag}): what the {name} writes "
            "next is thought, not answer."
        )
    if headless(own, other):
        found.append(
            f"The {name}'s prompt ends without an assistant header: nothing tells the {name} that "
            "it is its turn."
        )
    return found


def missing(reading: Reading) -> Messages:
    """The messages whose content is not in the prompt."""
    return [
        message
        for i, message in enumerate(reading.messages)
        if message["content"].strip() and mark(i) not in reading.marked
    ]


def altered(reading: Reading) -> Messages:
    """The messages whose content stands in the prompt, but not to the letter; blanks aside."""
    return [
        message
        for i, message in enumerate(reading.messages)
        if mark(i) in reading.marked and message["content"].strip() not in reading.text
    ]


def added(reading: Reading) -> list[str]:
    """Lines of the prompt that are neither a message nor scaffolding, in its order."""
    text = reading.marked
    for token in reading.tokens:
        text = text.replace(token, "\n")
    roles = ROLES | {message["role"].lower() for message in reading.messages}
    lines = map(str.strip, MARK.sub("\n", TAG.sub("\n", text)).splitlines())
    return [line for line in lines if not _is_label(line, roles)]


def open_think(reading: Reading) -> str | None:
    """The tag of a think block that the prompt opens behind its last message and leaves open."""
    found = list(THINK.finditer(reading.tail))
    return found[-1]["open"] if found else None


def headless(reading: Reading, other: Reading | None) -> bool:
    """Whether the prompt ends like a user's turn although an answer would begin otherwise.

    It would where the template itself begins an assistant's message by more, or where the other
    side's prompt has a header. Texts that are only strung together have none, on either side.
    """
    if _has_header(reading):
        return False
    return bool(reading.turn.strip()) or (other is not None and _has_header(other))


def _has_header(reading: Reading) -> bool:
    """Whether the end of the prompt says whose turn it is."""
    tail, turn = reading.tail.strip(), reading.turn.strip()
    if reading.marked.strip() != reading.bare.strip() or CLOSED.search(tail):
        return True
    pieces = [*TAG.findall(tail), *(x for x in TAG.split(tail) if _is_label(x.strip(), ROLES))]
    named = {word for piece in pieces for word in _words(piece)}
    return bool(named & SPEAKERS) or (turn != "" and tail.startswith(turn))


def _is_label(line: str, roles: set[str]) -> bool:
    """Whether it is a role's name with signs around it, or has no letters: "### Response:"."""
    words = _words(line)
    if all(word in roles for word in words):
        return True
    return len(words) <= 3 and line.endswith(":") and words[-1] in roles


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def _named(message: dict[str, str]) -> str:
    return f"{message['role']} message {_cut(message['content'].strip(), NAMED)!r}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
