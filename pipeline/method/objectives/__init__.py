"""Objectives: examples from tables, and per-token losses from log-probabilities.

An objective is a file here and its name in OBJECTIVES. The file has

    OBJECTIVE             what it reads and needs, as `Objective` says it
    parts(evidence, own)  its examples, made of a round's tables a few responses at a time
    terms(piece, own)     per-token losses of a slice of tokens
    check(where, arm)     where it is declared: refuses settings of an arm (pipeline/plan/checks)

`own` are its settings in block train. A plan reads these files, so torch is imported inside of
functions. Reduction, slicing and accumulation are the loop's (pipeline/training/gradients.py), the
same for all.

Axes: T tokens, V vocabulary, F forks, B responses.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.config.method import Anchored, Corrected
from pipeline.config.params import Params
from pipeline.core import extensions
from pipeline.core.chosen import chosen, file_of

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

OBJECTIVES = (
    *("omniopd", "opd", "opd-sampled", "opd-forks", "gkd", "sft", "imitate-forks", "grpo", "rft"),
    *("preference", "soda", "one-sided", "state-value", "repair"),
)
RATIO_CAP = 2.0  # `importance_ratio: ratio` multiplies a token's gradient by min(ratio, cap)
S = TypeVar("S", bound=Params)


@dataclass(frozen=True)
class Objective:
    """What plan, estimate, report and stage train need to know of an objective."""

    # of a round: prompts, rollouts, forks, targets, answers (at forks), solutions (whole ones),
    # in place of rollouts: snapshot (answers of the untrained student), repaired (see repair)
    reads: tuple[str, ...]
    # its keys of block train that not all objectives have. Anchored: it has a second term, towards
    # the round-0 checkpoint. Corrected: it reads train.importance_ratio
    settings: type[Params] = Params
    teacher: bool = False  # reads a teacher's log-probabilities
    reward: bool = False  # needs a task with a checker
    accepted: bool = False  # trains only on responses that the checker accepts
    sampled: bool = False  # weighs tokens by how likely the student was to sample them
    zero_weights: str = "zero-weights"  # why there is no signal where every weight is 0
    imitated: str = ""  # its setting that says how many answers of a fork are trained on
    group: str = "train"  # of its cells, a part of their keys
    # by its own settings, what it reads besides
    also: Callable[[Any], tuple[str, ...]] = lambda own: ()
    checked: bool = False  # has `check(where, arm)`: raises UserError because of an arm's settings
    # of a loss that is no sum over tokens: an example with the weights and values of its tokens, by
    # log(pi_theta / pi_ref) of each token of its sequences, nats, as an optimizer step begins
    relative: "Callable[[Example, list[np.ndarray], Any], Example] | None" = None

    @property
    def reference(self) -> bool:
        """Whether it reads the round-0 checkpoint."""
        return self.anchor or self.relative is not None

    @property
    def anchor(self) -> bool:
        """Whether its loss has a second term."""
        return issubclass(self.settings, Anchored)

    @property
    def importance_ratio(self) -> bool:
        """Whether it reads train.importance_ratio."""
        return issubclass(self.settings, Corrected)

    @property
    def at_forks(self) -> bool:
        """Whether it trains at forks."""
        return not {"forks", "targets"}.isdisjoint(self.reads)


def declared(name: str) -> Objective:
    """What the file of an objective says of it, of params.yaml's name."""
    if not extensions.named(name):
        found: Objective = chosen("pipeline.method.objectives", file_of(name), "OBJECTIVE")
        return found
    anchor = extensions.says(name, extensions.ANCHOR)
    return Objective(
        ("rollouts", *extensions.reads(name)),
        AnchoredAndCorrected if anchor else Corrected,
        teacher=extensions.says(name, extensions.TEACHER),
    )


def settings() -> list[type[Params]]:
    """The settings of all objectives of ours, each class once."""
    return list(dict.fromkeys(declared(name).settings for name in OBJECTIVES))


class AnchoredAndCorrected(Anchored, Corrected):
    """Settings of an objective that has no key of its own."""


def own(train: Params, model: type[S]) -> S:
    """The settings `model` of a block train that has them among others."""
    return model.model_construct(**{name: getattr(train, name) for name in model.model_fields})


class Sequence(NamedTuple):
    """One token sequence that is read by the model. Arrays are over its last T tokens."""

    context_ids: list[int]  # what stands before the trained tokens
    token_ids: list[int]  # (T,)
    signal_T: np.ndarray  # bool: the objective's own term acts here
    weight_T: np.ndarray  # float32: the target's, advantage or 1; meaningless where signal is false
    anchor_T: np.ndarray  # bool: KL(reference || student) acts here
    old_logp_T: np.ndarray | None  # nats, of the policy that wrote the tokens; None: not its own
    value_T: np.ndarray | None = None  # nats: the loss, where weight_T says its gradient alone


@dataclass(frozen=True)
class Example:
    """One response, the unit that a batch counts, with the sequences that train on it."""

    sequences: list[Sequence]


class Slice(NamedTuple):
    """A slice of tokens in float32; `student_TV` carries the gradient."""

    student_TV: "torch.Tensor"  # log-probabilities
    reference_TV: "torch.Tensor | None"  # log-probabilities of the round-0 checkpoint
    teacher_TV: "torch.Tensor | None"  # log-probabilities of a white-box teacher
    tokens_T: "torch.Tensor"
    signal_T: "torch.Tensor"
    weight_T: "torch.Tensor"
    anchor_T: "torch.Tensor"
    old_logp_T: "torch.Tensor"  # zeros where there is none
    value_T: "torch.Tensor | None" = None  # zeros where a sequence has none

    def logp_T(self) -> "torch.Tensor":
        return self.student_TV.gather(1, self.tokens_T[:, None])[:, 0]


class Terms(NamedTuple):
    """Per-token losses, nats, zero outside their masks."""

    signal_T: "torch.Tensor"
    anchor_T: "torch.Tensor"


class Evidence(Protocol):
    """The tables of a round, without the responses that experiment.match cut."""

    end: int  # token of the student's own end of a turn

    def beside(self, *names: str) -> "Iterator[tuple[pa.Table, ...]]":
        """Some rollouts with the rows of each other table that are of them, in order."""
        ...

    def valued(self, values: np.ndarray, *names: str) -> Iterator[tuple[Any, ...]]:
        """The same, each with the next of `values`: as many as its last table has rows."""
        ...

    def each(self, name: str) -> "Iterator[pa.Table]":
        """One table by row groups."""
        ...

    def by_prompt(self, name: str) -> "Iterator[tuple[pa.Table, pa.Table]]":
        """Some rollouts with the rows of a table of prompts that are of theirs."""
        ...

    def columns(self, name: str, columns: list[str]) -> "pa.Table":
        """Narrow columns of all rows: for what is relative to the whole round."""
        ...

    def agreement(self, targets: "pa.Table") -> np.ndarray:
        """How much the teacher agrees with itself at each target's fork (F,)."""
        ...

    def prompt_ids(self) -> dict[str, list[int]]:
        """Tokens of the round's prompts, by prompt_id."""
        ...


Parts = Iterator[tuple[list[Example], int]]  # examples of some responses, and how many left out
TermsOf = Callable[[Slice], Terms]
