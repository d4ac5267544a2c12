"""The user's options for a dump, the counts of reading it, and what several formats share."""

import math
from typing import Any, Literal, NamedTuple

from pipeline.core.errors import UserError
from pipeline.tasks.problem_files import Row

Format = Literal["trl", "verl", "openrlhf", "prime-rl"]
Reason = Literal["stop", "length"]
Values = dict[str, Any]
ENCODED = "no token_ids and no logprobs: the text is encoded, its sampler is not compared"


class Told(NamedTuple):
    """The user's options for a dump, beside its name."""

    format: Format
    finish_reason: Reason | None = None  # of every response that does not say
    response_limit: int | None = None  # instead: tokens at which the trainer cut responses
    reward: str | None = None  # the column


class Found:
    """Counts of reading a dump, to be printed."""

    def __init__(self) -> None:
        self.rows = 0
        self.notes: dict[str, int] = {}
        self.steps: set[Any] = set()

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1


def texts(row: Row, counts: Found) -> tuple[str, str]:
    """`input` and `output` as verl and OpenRLHF write them; `output` may be empty.

    Raises UserError unless both are text.
    """
    text, output = row.text("input"), row.first("output")
    if not isinstance(output, str):
        raise row.wrong(("output",), output, "text")
    counts.note(ENCODED)
    return text, output


def ending(row: Row, text: str, student: Any, told: Told, counts: Found) -> str:
    """The finish_reason of a response whose dump has none. Raises UserError without a word of it.

    With a limit, a response of as many of the student's tokens was cut.
    """
    if told.finish_reason is not None:
        counts.note(f"no finish_reason: {told.finish_reason}, as --finish-reason says")
        return told.finish_reason
    if told.response_limit is not None:
        cut = len(student.ids(text)) >= told.response_limit
        reason = "length" if cut else "stop"
        counts.note(f"no finish_reason: {reason} by --response-limit {told.response_limit}")
        return reason
    raise UserError(
        f"{row.where}: {told.format} does not write whether a response ended or was cut, and "
        "decodes it without its end. Say it: --response-limit N, the most new tokens that your "
        "trainer allowed (a response of so many was cut, a shorter one ended); or --finish-reason "
        "stop or length, if all are alike."
    )


def reward(row: Row, told: Told, counts: Found, known: tuple[str, ...]) -> float | None:
    """The reward: column --reward, else the one of `known` that the row has. Raises UserError."""
    if told.reward is not None and told.reward not in row.values:
        raise UserError(
            f"{row.where}: --reward: found {told.reward!r}, wanted one of {sorted(row.values)}."
        )
    names = (told.reward,) if told.reward is not None else known
    if len(names) != 1:
        what = f"{len(names)} columns may be the reward, {sorted(names)}: name one with --reward"
        counts.note(what if names else "no reward")
        return None
    value = row.values.get(names[0])
    if value is None or value != value:  # pandas writes NaN where a function gave no score
        counts.note("no reward")
        return None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise row.wrong(names, value, "a finite number")
