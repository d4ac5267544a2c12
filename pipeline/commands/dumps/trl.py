"""TRL 1.16.0: `log` of trl/trainer/grpo_trainer.py, a Parquet file for each step that is logged.

step, prompt, completion, a column for each reward function, columns of `log_extra`, advantage.
Prompt and completion are messages or, for a prompt of text, text, which no template has rendered;
completions are decoded without special tokens.
"""

from typing import TYPE_CHECKING, Any

from pipeline.commands.dumps.told import ENCODED, Found, Told, Values, ending, reward
from pipeline.tasks.problem_files import Row

if TYPE_CHECKING:
    from pipeline.commands.dumps.student import Student

OWN = ("step", "prompt", "completion", "advantage")


def response(row: Row, student: "Student", told: Told, counts: Found) -> Values:
    messages, prompt_ids = _asked(row, student, counts)
    text = _completion(row)
    counts.note(ENCODED)
    scores = [x for x, value in row.values.items() if x not in OWN and _is_score(value)]
    return {
        "messages": messages,
        "prompt_token_ids": prompt_ids,
        "text": text,
        "finish_reason": ending(row, text, student, told, counts),
        "reward": reward(row, told, counts, tuple(scores)),
    }


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _asked(row: Row, student: "Student", counts: Found) -> tuple[Any, list[int]]:
    prompt = row.first("prompt")
    if isinstance(prompt, str):
        asked = student.asked(row, "prompt", prompt, special=True)
        if asked is not None:
            return asked
        counts.note("prompts of text, which TRL renders by no template: read as they are")
        return [{"role": "user", "content": prompt}], student.ids(prompt, special=True)
    messages = _messages(row, "prompt", prompt)
    text = student.rendered(messages, {})
    if text is None:
        raise row.wrong(("prompt",), messages, "messages that the student's chat template takes")
    counts.note("prompts rendered by the template of --student with its own default of thinking")
    return messages, student.ids(text)


def _completion(row: Row) -> str:
    completion = row.first("completion")
    if isinstance(completion, str):
        return completion
    messages = _messages(row, "completion", completion)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(x["role"] for x in messages)
        raise row.wrong(("completion",), roles, "one message of an assistant; turns of tools")
    return messages[0]["content"]


def _messages(row: Row, name: str, messages: Any) -> list[dict[str, str]]:
    """The messages of a column; all else in them must be null. Raises UserError naming the part."""
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(x, dict) for x in messages)
    ):
        raise row.wrong((name,), messages, "text, or a list of {role, content}")
    for x in messages:
        more = {k: v for k, v in x.items() if k not in ("role", "content") and v}
        if more or not isinstance(x.get("content"), str) or not isinstance(x.get("role"), str):
            wanted = (
                "a role and a content of text alone; images, tools and parsed reasoning are not"
            )
            raise row.wrong((name,), more or x, f"{wanted} read")
    return [{"role": x["role"], "content": x["content"]} for x in messages]
