"""Rollouts as other trainers write them to disk, made into rows of our own before any stage.

What a trainer does not write, somebody has to say: nothing is guessed. docs/in-and-out.md names
the version and the file of each format.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, assert_never

from pipeline import cells, rows
from pipeline import tables as tables
from pipeline.digests import replacing
from pipeline.errors import UserError
from pipeline.rows import Row

Format = Literal["trl", "verl", "openrlhf", "prime-rl"]
Reason = Literal["stop", "length"]
Values = dict[str, Any]

WRITTEN = {  # what each is, in the words of its trainer
    "trl": "completions_*.parquet of GRPOTrainer (log_completions), with prompt and completion",
    "verl": "JSON lines of trainer.rollout_data_dir or validation_data_dir, with input and output",
    "openrlhf": "JSON lines of openrlhf.cli.batch_inference, with input and output",
    "prime-rl": "rollouts/step_N/train/effective/traces.jsonl, with nodes or traces",
}
ENCODED = "no token_ids and no logprobs: the text is encoded, its sampler is not compared"
MARKS = {
    "trl": ("prompt", "completion"),
    "verl": ("input", "output", "gts", "score", "step"),
    "openrlhf": ("input", "output"),
    "prime-rl": (),
}


class Told(NamedTuple):
    """What the user says of a dump beside its name."""

    format: Format
    finish_reason: Reason | None = None  # of every response that does not say
    response_limit: int | None = None  # instead: tokens at which the trainer cut responses
    reward: str | None = None  # the column


class Found:
    """What is counted on the way, to be printed."""

    def __init__(self) -> None:
        self.rows = 0
        self.notes: dict[str, int] = {}
        self.steps: set[Any] = set()

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1


def converted(path: Path, student: str, told: Told, out: Path) -> Path:
    """Rows of the dump in `path` as a file of ours in the folder `out`, in their order.

    `student` is as on the command line. Prints what the dump does not hold. Raises UserError naming
    the row, before anything is computed.
    """
    from pipeline.dumps.student import Student

    found, reader = Found(), Student(student)
    target = out / f"{told.format}-{path.stem}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for values in _values(path, reader, told, found):
            file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
            found.rows += 1
    if not found.rows:
        raise UserError(
            f"{path}: found no response of the student, wanted some ({_notes(found) or 'no row'})."
        )
    cells.log.info(f"{path}: {told.format}, {found.rows} responses; {_notes(found)}")
    return target


def _notes(found: Found) -> str:
    return "; ".join(f"{what} ({count})" for what, count in found.notes.items())


def _values(path: Path, student: Any, told: Told, found: Found) -> Iterator[Values]:
    marks = MARKS[told.format]
    for row in rows.file(path):
        missing = [name for name in marks if name not in row.values]
        if missing:
            raise UserError(
                f"{row.where}: found the fields {sorted(row.values)}, wanted {missing}, too, as "
                f"{told.format} writes them: {WRITTEN[told.format]}. Name another --format, or "
                "leave it out for rows with the fields of `omniopd import` itself."
            )
        _one_step(row, found)
        yield from _of(row, student, told, found)


def _one_step(row: Row, found: Found) -> None:
    step = row.values.get("step")
    found.steps.add(step)
    if len(found.steps) > 1:
        others = sorted(found.steps - {step}, key=str)
        raise UserError(
            f"{row.where}: step: found {step} after {others}, wanted one step: each has a "
            "checkpoint of its own, and --student is one of them. Name the file of one step."
        )


def _of(row: Row, student: Any, told: Told, found: Found) -> Iterator[Values]:
    match told.format:
        case "trl":
            from pipeline.dumps import trl

            yield trl.response(row, student, told, found)
        case "verl":
            from pipeline.dumps import verl

            yield verl.response(row, student, told, found)
        case "openrlhf":
            from pipeline.dumps import openrlhf

            yield openrlhf.response(row, student, told, found)
        case "prime-rl":
            from pipeline.dumps import prime_rl

            yield from prime_rl.responses(row, student, told, found)
        case _:
            assert_never(told.format)


def texts(row: Row, found: Found) -> tuple[str, str]:
    """`input` and `output` as verl and OpenRLHF write them; `output` may be empty.

    Raises UserError unless both are text.
    """
    text, output = row.text("input"), row.first("output")
    if not isinstance(output, str):
        raise row.wrong(("output",), output, "text")
    found.note(ENCODED)
    return text, output


def ending(row: Row, text: str, student: Any, told: Told, found: Found) -> str:
    """The finish_reason of a response whose dump has none. Raises UserError without a word of it.

    With a limit, a response of as many of the student's tokens was cut.
    """
    if told.finish_reason is not None:
        found.note(f"no finish_reason: {told.finish_reason}, as --finish-reason says")
        return told.finish_reason
    if told.response_limit is not None:
        cut = len(student.ids(text)) >= told.response_limit
        reason = "length" if cut else "stop"
        found.note(f"no finish_reason: {reason} by --response-limit {told.response_limit}")
        return reason
    raise UserError(
        f"{row.where}: {told.format} does not write whether a response ended or was cut, and "
        "decodes it without its end. Say it: --response-limit N, the most new tokens that your "
        "trainer allowed (a response of so many was cut, a shorter one ended); or --finish-reason "
        "stop or length, if all are alike."
    )


def reward(row: Row, told: Told, found: Found, known: tuple[str, ...]) -> float | None:
    """Of the column --reward, else the only one of `known` that the row has. Raises UserError."""
    if told.reward is not None and told.reward not in row.values:
        raise UserError(
            f"{row.where}: --reward: found {told.reward!r}, wanted one of {sorted(row.values)}."
        )
    names = (told.reward,) if told.reward is not None else known
    if len(names) != 1:
        what = f"{len(names)} columns may be the reward, {sorted(names)}: name one with --reward"
        found.note(what if names else "no reward")
        return None
    value = row.values.get(names[0])
    if value is None or value != value:  # pandas writes NaN where a function gave no score
        found.note("no reward")
        return None
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise row.wrong(names, value, "a finite number")
