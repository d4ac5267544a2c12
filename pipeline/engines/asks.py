"""A unit of work of a teacher or an engine: what is wanted after a response's prefixes."""

from dataclasses import dataclass

from pipeline.judgments.keys import Prompt


@dataclass(frozen=True)
class Draw:
    """One continuation that is wanted."""

    position: int  # index into the student's token_ids; 0 for a full solution
    sample: int
    seed: int | None  # None where the provider takes none
    key: str = ""  # of its request: how a batch's results are told apart


@dataclass(frozen=True)
class Ask:
    """All that is wanted from the teacher on one student response: a unit of work."""

    prompts: dict[int, Prompt]  # position: prompt and prefix as they are sent
    draws: list[Draw]
