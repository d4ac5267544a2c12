"""Teachers: continue this prefix N times, up to C tokens. Text in, text out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.params import Runtime


@dataclass(frozen=True)
class Draw:
    """One continuation that is wanted."""

    position: int  # index into the student's token_ids; 0 for a full solution
    sample: int
    seed: int


@dataclass(frozen=True)
class Ask:
    """All that is wanted from the teacher on one student response: a unit of work and of commit."""

    prefixes: dict[int, list[int]]  # position: teacher tokens of prompt and prefix
    draws: list[Draw]


@dataclass(frozen=True)
class Continuation:
    """One answer of a teacher, uncut."""

    text: str
    token_ids: list[int] | None  # the teacher's tokens, where it returns them
    ended: bool  # the teacher stopped by itself
    model_returned: str
    prompt_tokens: int
    completion_tokens: int


class Teacher(Protocol):
    provider: str
    model: str  # pinned id; for a local checkpoint the hash of config, tokenizer and weights
    same_tokens: bool  # the answers' token ids are the student's own

    def sampler(self) -> dict[str, Any]:
        """Every sampler setting that is sent."""
        ...

    def prefix(self, messages: list[dict[str, str]], ids: Sequence[int], text: str) -> list[int]:
        """Teacher tokens of its own rendered prompt followed by the student's prefix."""
        ...

    def limit(self, chunk_tokens: int) -> int:
        """Tokens to ask for, so that the answer covers `chunk_tokens` student tokens."""
        ...

    def answer(self, asks: Sequence[Ask], limit: int) -> Iterator[list[Continuation]]:
        """For each ask, in order, its draws' continuations in order."""
        ...


def load(
    kind: str, folder: Path, student_tokenizer: Path, temperature: float, runtime: Runtime
) -> Teacher:
    """The teacher of a cell; `folder` holds a local teacher's checkpoint."""
    match kind:
        case "local":
            from pipeline.teachers.local import LocalTeacher

            return LocalTeacher(folder / "checkpoint", student_tokenizer, temperature, runtime)
        case _:
            raise UserError(f"teachers: kind {kind!r} is unknown. Run `omniopd plan`.")
