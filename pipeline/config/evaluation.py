"""The block evaluate of params.yaml: what is looked at after training."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.method import Graded
from pipeline.config.params import Engine, Metric, Params

Looked = Literal["answers", "forks"]


class Agreement(Params):
    """How far a teacher agrees with the base student and with each arm's last one, on prompts that
    none of them was trained on: pipeline/plan/evaluation/held_out.py."""

    # answers: whole responses beside the teacher's own; forks: chunks beside its continuations
    of: Annotated[tuple[Looked, ...], Field(min_length=1)] = ("answers", "forks")
    samples: Annotated[int, Field(ge=2)] = 2  # the teacher's, each time; two say how it varies
    metric: Metric | None = None  # null: score.metric


class Evaluate(Graded):
    """Block evaluate."""

    rounds: Literal["last", "all"]
    engine: Engine = "hf"
    agreement: Agreement | None = None  # null: not asked
