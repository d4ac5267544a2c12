"""The params of a train cell: block train as its objective reads it, and where the cell stands."""

from typing import Any

from pydantic import create_model

from pipeline.config import params
from pipeline.config.method import NORMS_EVERY, NormsEvery, Optimised
from pipeline.config.teachers import Price
from pipeline.method.objectives import Objective


class TrainParams(Optimised):
    """Params of the train cells of every objective. Those of one: `of`."""

    seed: int
    round: params.Count
    prompts_per_round: params.Count  # which slice of the pool
    metric: str = ""  # of baseline teacher-agreement
    samples: params.Count = 1  # N, of the same
    match: params.Resource | None = None  # the resource that the round's evidence is cut by
    cap: params.Positive | None = None  # of it, a round
    price: Price | None = None  # of the teacher, where the resource is usd
    norms_every: NormsEvery = NORMS_EVERY


def of(objective: Objective) -> type[TrainParams]:
    """The params of an objective's cells."""
    own = () if issubclass(TrainParams, objective.settings) else (objective.settings,)
    base: Any = (TrainParams, *own)
    found: type[TrainParams] = create_model("TrainParams", __base__=base)
    return found
