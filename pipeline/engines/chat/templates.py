"""Chat templates: which one a model has, its date, messages as it writes them, and around them.

A date in a template is pinned, so that ids and keys are the same tomorrow.
"""

import datetime
import json
from typing import Any

from jinja2 import TemplateError

from pipeline.core.errors import UserError

Messages = list[dict[str, str]]
# the date that Llama 3's own templates fall back to where no clock is there
DATE = "2024-07-26"
PINNED = "{%- macro strftime_now(format) -%}"
QUESTION, ANSWER = "Qzq", "Azq"  # of a conversation that shows what a template writes around them


def template(found: Any, owner: str, day: str | None = None) -> str | None:
    """One chat template of what a tokenizer has, its date pinned. Raises UserError.

    Of several with names it is the one named `default`.
    """
    if isinstance(found, dict):
        if "default" not in found:
            raise UserError(
                f"{owner}: has the chat templates {sorted(found)}, wanted one named 'default'. "
                "Write the one to use into init.chat_template, as Jinja."
            )
        found = found["default"]
    return None if found is None else pinned(str(found), day)


def pinned(text: str, day: str | None) -> str:
    """A template that reads `day` wherever it asks for today; others stay as they are.

    The clock's function is replaced by a macro of its name in the template's first line, so that
    it also holds for readers that know nothing of it.
    """
    if "strftime_now" not in text or PINNED in text:
        return text
    moment = datetime.datetime.fromisoformat(day or DATE)
    kinds = [f"%-{x}" for x in "dmyHIMSj"] + [
        f"%{x}" for x in "aAwdbBmyYHIpMSfjUWcxXzZGuVCDeFghklnPrRstT"
    ]
    replaced = "".join(
        f" | replace({json.dumps(kind)}, {json.dumps(moment.strftime(kind))})"
        for kind in kinds
        if kind in text
    )
    hide, show = 'replace("%%", "\\u0001")', 'replace("\\u0001", "%")'
    body = f"{{{{- format | {hide}{replaced} | {show} -}}}}"
    return f"{PINNED}{body}{{%- endmacro -%}}\n{text}"


def render(
    tokenizer: Any, messages: Messages, owner: str, generation: bool = True, **more: Any
) -> str:
    """The text of messages by a tokenizer's template, thinking off. Raises UserError."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"{owner}: its tokenizer has no chat template, wanted one. Write it into "
            "init.chat_template of the model, or chat_template.jinja beside tokenizer.json."
        )
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=False,
                **more,
            )
        )
    except TemplateError as error:
        roles = ", ".join(x["role"] for x in messages)
        raise UserError(
            f"{owner}: its chat template refuses messages with the roles {roles} and says: "
            f"{error}. Drop the system message, write it into the user's message, let user and "
            "assistant take turns, or give another template (init.chat_template of the model, "
            "chat_template.jinja in the folder of a tokenizer)."
        ) from error


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that begins a row."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def template_end(tokenizer: Any) -> int | None:
    """The first token that a template writes after an assistant's turn, if it is one that was
    added to the vocabulary and opens no turn; else None."""
    if tokenizer.chat_template is None:
        return None
    user = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER}
    try:
        shown = render(tokenizer, [user, answer], "", generation=False)
        opened = render(tokenizer, [user], "")
        again = render(tokenizer, [user, answer, user], "", generation=False)
    except UserError:  # it takes no such conversation, so it shows no end
        return None
    if ANSWER not in shown or QUESTION not in opened:
        return None
    before, _, tail = shown.rpartition(ANSWER)
    between = again.partition(ANSWER)[2].partition(QUESTION)[0]
    end = _without_opening(between, opened.partition(QUESTION)[0])
    header = before.rpartition(QUESTION)[2].strip()  # of the assistant, behind the user's end
    opening = between.removeprefix(end)  # of the next user
    if end and (end.strip() == header or _first(tokenizer, end) == _first(tokenizer, opening)):
        return None  # what is written there opens a turn
    if not end and tail.strip() in (header, between.strip()):
        return None
    tail = tail or end  # an end may be written only where another turn follows
    ids = encode(tokenizer, tail) if tail else []
    added = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    if not ids or ids[0] not in added or not tokenizer.convert_ids_to_tokens(ids[0]).strip():
        return None
    return ids[0]


def _first(tokenizer: Any, text: str) -> int | None:
    return next(iter(encode(tokenizer, text)), None)


def _without_opening(between: str, opening: str) -> str:
    """`between` two turns without what opens the second, which is how the first was opened."""
    size = next((n for n in range(len(between), 0, -1) if opening.endswith(between[-n:])), 0)
    return between[: len(between) - size]


def lead(tokenizer: Any) -> str:
    """The blanks that a template writes between its generation prompt and an answer: Llama 2's."""
    user = {"role": "user", "content": QUESTION}
    answer = {"role": "assistant", "content": ANSWER}
    try:
        asked = render(tokenizer, [user], "")
        shown = render(tokenizer, [user, answer], "", generation=False)
    except UserError:
        return ""
    between = shown.removeprefix(asked).partition(ANSWER)[0] if shown.startswith(asked) else ""
    return between if between.isspace() else ""
