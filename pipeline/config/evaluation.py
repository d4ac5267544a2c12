"""The block evaluate of params.yaml: what is looked at after training."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.method import Graded
from pipeline.config.params import Count, Engine, Metric, Mode, Name, Params

Looked = Literal["answers", "forks"]


class Agreement(Params):
    """How far a teacher agrees with the base student and with each arm's last one, on prompts that
    none of them was trained on: pipeline/plan/evaluation/held_out.py."""

    # answers: whole responses beside the teacher's own; forks: chunks beside its continuations
    of: Annotated[tuple[Looked, ...], Field(min_length=1)] = ("answers", "forks")
    samples: Annotated[int, Field(ge=2)] = 2  # the teacher's, each time; two say how it varies
    metric: Metric | None = None  # null: score.metric


class Judge(Params):
    """A teacher that says which of two answers is better, the base student's or that of an arm's
    last student, to the same prompts as Agreement's: pipeline/method/judging.py."""

    teacher: Name
    pairs: Count = 1  # of answers to each prompt; each is shown in both orders
    samples: Count = 1  # replies to each order
    tokens: Count = 16  # that a reply needs at most; a hosted judge is given more room
    continuation: Mode = "instruct"  # of a hosted teacher


class Evaluate(Graded):
    """Block evaluate."""

    rounds: Literal["last", "all"]
    engine: Engine = "hf"
    agreement: Agreement | None = None  # null: not asked
    judge: Judge | None = None  # null: none
