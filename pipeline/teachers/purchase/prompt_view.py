"""The same prompts as student and teacher read them, for `omniopd audit` and `teacher check`.

Only templates are rendered: nothing is asked, no model is loaded.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines.chat import rendered
from pipeline.engines.chat.rendered import Messages
from pipeline.teachers import continuations
from pipeline.teachers.protocol import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 4  # prompts that are printed; warnings come from one of each sequence of roles
LISTED = 16  # warnings that are printed
LONG = 1500  # characters of a prompt on a terminal
HERE = "(the student's text up to a fork)"
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal would obey them
REMEDY = "docs/teachers.md, section What the teacher reads, says what to do"


@dataclass(frozen=True)
class Sides:
    """Whose prompts are compared."""

    student: "PreTrainedTokenizerBase | None"  # None where the student does not exist yet
    teacher: Teacher
    name: str  # of the teacher
    ends: tuple[str, str] = ("", "")  # of a turn of the student and of the teacher, if known


@dataclass(frozen=True)
class View:
    """A prompt as both sides read it."""

    what: str  # which prompt it is
    student: str | None
    teacher: str | None  # None where the provider renders
    sent: Messages  # what goes to the teacher
    mode: str
    warnings: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)  # text that both templates add
    ends: tuple[str, str] = ("", "")

    @property
    def sides(self) -> list[tuple[str, str]]:
        """Label and text of each side."""
        student = "there is no student yet" if self.student is None else self.student
        follows = "stands inside" if self.mode == "instruct" else "follows"
        label = f"the teacher's prompt, mode {self.mode}; the student's text {follows}"
        teacher = self.teacher
        if teacher is None:
            label = f"the messages sent to the teacher, mode {self.mode}; its provider renders them"
            teacher = "\n".join(f"{m['role']}: {m['content']}" for m in self.sent)
        return [("the student's prompt", student), (label, teacher)]


def sides(folder: Path, teacher: Teacher, name: str) -> Sides:
    """The side of the student in `folder`, if there is a checkpoint, and the teacher's side."""
    from pipeline.processes.lean_import import import_transformers

    import_transformers()
    from pipeline.engines.chat import tokenizer_files, turn_ends

    student, ours = None, ""
    if (folder / "tokenizer.json").is_file():
        student = tokenizer_files.load(folder)
        ours = turn_ends.named(student, turn_ends.ends(folder))
    template, ends = teacher.template, teacher.ends
    return Sides(
        student, teacher, name, (ours, turn_ends.named(template, ends) if template else "")
    )


def of_prompts(sides: Sides, path: Path, file: Path) -> list[View]:
    """A view for each sequence of roles in the prompts table at `path`, the shortest first.

    Every prompt is rendered, so that one that a template refuses is found before anything is
    bought. `file` is where the prompts come from. Raises UserError naming it and the prompt.
    """
    first: dict[tuple[str, ...], View] = {}
    for part in tables.stream(path, schemas.PROMPTS, ["prompt_id", "messages"]):
        for row in part.to_pylist():
            messages: Messages = json.loads(row["messages"])
            roles = tuple(message["role"] for message in messages)
            what = f"{file}, prompt {row['prompt_id']}"
            try:
                if roles in first:
                    _render(sides, messages)
                else:
                    first[roles] = view(sides, messages, f"{what} ({', '.join(roles)})")
            except UserError as error:
                start = messages[-1]["content"][: rendered.NAMED]
                raise UserError(f"{what} ({start!r}): {error}") from error
    return sorted(first.values(), key=lambda found: len(found.sent))


def of_probes(sides: Sides, probes: Sequence[str]) -> list[View]:
    """Views of the check's own probes, and of one with a system message.

    That one may be refused, which is a warning: the check does not know the student's prompts.
    """
    alone = [[{"role": "user", "content": probe}] for probe in probes]
    system = [{"role": "system", "content": "Be brief."}, *alone[0]]
    for messages in alone[1:]:
        _render(sides, messages)
    first = view(sides, alone[0], "a probe (user)")
    if refused := _refusals(sides, system):
        return [replace(first, warnings=[*first.warnings, *refused])]
    return [first, view(sides, system, "a probe (system, user)")]


def view(sides: Sides, messages: Messages, what: str) -> View:
    """Both sides of a prompt. Raises UserError where a template refuses it."""
    ours, theirs = (
        None if template is None else rendered.read(template, sent, owner)
        for template, sent, owner in _both(sides, messages)
    )
    return View(
        what,
        ours.text if ours else None,
        theirs.text if theirs else None,
        _sent(sides, messages),
        sides.teacher.continuation,
        rendered.warnings(ours, theirs),
        rendered.shared(ours, theirs),
        sides.ends,
    )


def warnings(views: Sequence[View]) -> list[str]:
    """Those of all views, each once; of very many the first, and how many there are."""
    found = list(dict.fromkeys(warning for one in views for warning in one.warnings))
    more = [f"And {len(found) - LISTED:,} more like these."] if len(found) > LISTED else []
    return found[:LISTED] + more


def ends(views: Sequence[View]) -> list[str]:
    """Sentences on what ends a turn of each side, where it is known."""
    sides = zip(("student", "teacher"), views[0].ends if views else (), strict=False)
    return [f"A turn of the {side} ends with {known}." for side, known in sides if known]


def quiet(views: Sequence[View]) -> str:
    """A sentence on what it means that there is no warning."""
    if all(one.teacher is None for one in views):
        return "No warning about the student's prompts; what the provider makes is not known here."
    return "No warning: no message is missing, no text is added, no think block is open."


def text(views: Sequence[View]) -> str:
    """For a terminal: the first views, one side below the other, then the warnings."""
    lines = []
    for one in views[:SHOWN]:
        lines.append(f"What student and teacher read, {one.what}:")
        for label, prompt in one.sides:
            lines += [f"--- {label}:", UNSAFE.sub("\ufffd", cut(prompt, LONG))]
        lines.append("---")
        lines += [f"note: both templates add {line!r}" for line in one.shared]
    if len(views) > SHOWN:
        lines.append(f"{len(views) - SHOWN} more sequences with other roles are read, not shown.")
    lines += ends(views)
    found = warnings(views)
    lines += [UNSAFE.sub("\ufffd", f"warning: {warning}") for warning in found]
    lines.append(f"Warnings stop nothing; {REMEDY}." if found else quiet(views))
    return "\n".join(lines)


def cut(prompt: str, limit: int) -> str:
    """A long text without its middle."""
    left_out = len(prompt) - limit
    if left_out <= 0:
        return prompt
    half = limit // 2
    return f"{prompt[:half]}\n[... {left_out:,} characters left out ...]\n{prompt[-half:]}"


def _both(
    sides: Sides, messages: Messages
) -> list[tuple["PreTrainedTokenizerBase | None", Messages, str]]:
    """Template, messages and owner, of the student and of the teacher."""
    sent, owner = _sent(sides, messages), f"teachers.{sides.name}"
    return [(sides.student, messages, "the student"), (sides.teacher.template, sent, owner)]


def _sent(sides: Sides, messages: Messages) -> Messages:
    """The messages that go to the teacher, without an answer that is begun."""
    if sides.teacher.continuation == "instruct":
        return continuations.instruct(messages, HERE)
    return messages


def _render(sides: Sides, messages: Messages) -> None:
    """Raise UserError where a template refuses the messages."""
    for template, sent, owner in _both(sides, messages):
        if template is not None:
            rendered.render(template, sent, owner)


def _refusals(sides: Sides, messages: Messages) -> list[str]:
    """A warning for each side whose template refuses a system message."""
    found = []
    for template, sent, owner in _both(sides, messages):
        try:
            if template is not None:
                rendered.render(template, sent, owner)
        except UserError as error:
            said = error.__cause__ or error
            found.append(
                f"{owner}: its template refuses a system role ({said}). A prompt with a system "
                "message would stop the run before anything is bought."
            )
    return found
