"""Rollouts as other trainers write them to disk, made into rows of our own before any stage.

What a trainer does not write, somebody has to say: nothing is guessed. docs/in-and-out.md names
the version and the file of each format.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_never

from pipeline.commands.dumps.told import Found, Told, Values
from pipeline.core.errors import UserError
from pipeline.core.files import replacing
from pipeline.stage import cells
from pipeline.tasks import problem_files
from pipeline.tasks.problem_files import Row

WRITTEN = {  # what each is, in the words of its trainer
    "trl": "completions_*.parquet of GRPOTrainer (log_completions), with prompt and completion",
    "verl": "JSON lines of trainer.rollout_data_dir or validation_data_dir, with input and output",
    "openrlhf": "JSON lines of openrlhf.cli.batch_inference, with input and output",
    "prime-rl": "rollouts/step_N/train/effective/traces.jsonl, with nodes or traces",
}
MARKS = {
    "trl": ("prompt", "completion"),
    "verl": ("input", "output", "gts", "score", "step"),
    "openrlhf": ("input", "output"),
    "prime-rl": (),
}


def converted(path: Path, student: str, told: Told, out: Path) -> Path:
    """Rows of the dump in `path` as a file of ours in the folder `out`, in their order.

    `student` is as on the command line. Prints what the dump does not hold. Raises UserError naming
    the row, before anything is computed.
    """
    from pipeline.commands.dumps.student import Student

    counts, reader = Found(), Student(student)
    target = out / f"{told.format}-{path.stem}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for values in _values(path, reader, told, counts):
            file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
            counts.rows += 1
    if not counts.rows:
        raise UserError(
            f"{path}: found no response of the student, wanted some ({_notes(counts) or 'no row'})."
        )
    cells.log.info(f"{path}: {told.format}, {counts.rows} responses; {_notes(counts)}")
    return target


def _notes(found: Found) -> str:
    return "; ".join(f"{what} ({count})" for what, count in found.notes.items())


def _values(path: Path, student: Any, told: Told, counts: Found) -> Iterator[Values]:
    marks = MARKS[told.format]
    for row in problem_files.file(path):
        missing = [name for name in marks if name not in row.values]
        if missing:
            raise UserError(
                f"{row.where}: found the fields {sorted(row.values)}, wanted {missing}, too, as "
                f"{told.format} writes them: {WRITTEN[told.format]}. Name another --format, or "
                "leave it out for rows with the fields of `omniopd import` itself."
            )
        _one_step(row, counts)
        yield from _of(row, student, told, counts)


def _one_step(row: Row, counts: Found) -> None:
    step = row.values.get("step")
    counts.steps.add(step)
    if len(counts.steps) > 1:
        others = sorted(counts.steps - {step}, key=str)
        raise UserError(
            f"{row.where}: step: found {step} after {others}, wanted one step: each has a "
            "checkpoint of its own, and --student is one of them. Name the file of one step."
        )


def _of(row: Row, student: Any, told: Told, counts: Found) -> Iterator[Values]:
    match told.format:
        case "trl":
            from pipeline.commands.dumps import trl

            yield trl.response(row, student, told, counts)
        case "verl":
            from pipeline.commands.dumps import verl

            yield verl.response(row, student, told, counts)
        case "openrlhf":
            from pipeline.commands.dumps import openrlhf

            yield openrlhf.response(row, student, told, counts)
        case "prime-rl":
            from pipeline.commands.dumps import prime_rl

            yield from prime_rl.responses(row, student, told, counts)
        case _:
            assert_never(told.format)
