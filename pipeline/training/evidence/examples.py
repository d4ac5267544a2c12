"""A round's evidence, read beside its rollouts a few responses at a time, and its examples on disk.

Examples are read back when their optimizer step comes, in whatever order the steps are.
"""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.disk_rows import Spool
from pipeline.data import aligned, prompts, schemas, tables
from pipeline.engines import checkpoints
from pipeline.method.objectives import Example, Sequence
from pipeline.training.evidence.budget_matching import Cut
from pipeline.training.evidence.train_params import TrainParams

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy

SCHEMAS = {
    "rollouts": schemas.ROLLOUTS,
    "targets": schemas.TARGETS,
    "forks": schemas.FORKS,
    "answers": schemas.ANSWERS,
}


class Evidence:
    """The tables of a round, without the responses that were cut, for what makes examples of them
    (pipeline/method/objectives)."""

    def __init__(
        self, p: TrainParams, args: argparse.Namespace, student: "Policy", cut: Cut | None
    ) -> None:
        self.p, self.args, self.student, self.cut = p, args, student, cut
        self.end = student.ends[0]

    def beside(self, *names: str) -> Iterator[tuple[pa.Table, ...]]:
        """Some rollouts with the rows of each other table that are of them, in order.

        Raises UserError if a table has a response that is not among the rollouts, or not there.
        """
        sides = [aligned.Side(getattr(self.args, n), SCHEMAS[n], "rollouts") for n in names]
        for rollouts in aligned.responses(self.args.rollouts):
            ids = rollouts["rollout_id"]
            yield tuple(map(self._kept, (rollouts, *(side.of(ids) for side in sides))))
        for side in sides:
            side.end()

    def valued(self, values: np.ndarray, *names: str) -> Iterator[tuple[Any, ...]]:
        """The same, each with the next of `values`: as many as its last table has rows."""
        first = 0
        for block in self.beside(*names):
            own = values[first : first + len(block[-1])]
            yield (*block, own)
            first += len(own)

    def each(self, name: str) -> Iterator[pa.Table]:
        """One table by row groups."""
        return map(self._kept, tables.stream(getattr(self.args, name), SCHEMAS[name]))

    def by_prompt(self, name: str) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Some rollouts with the rows of a table of prompts, as whole solutions are, of theirs."""
        side, held = aligned.Side(getattr(self.args, name), SCHEMAS[name], "prompts"), None
        for rollouts in aligned.responses(self.args.rollouts):
            found = side.of(rollouts["prompt_id"])
            if held is not None:  # a prompt's responses may lie in two of the blocks
                again = pc.is_in(held["rollout_id"], pc.unique(rollouts["prompt_id"]))
                found = pa.concat_tables([held.filter(again), found])
            held = found
            yield rollouts, self._kept(found)
        side.end()

    def columns(self, name: str, columns: list[str]) -> pa.Table:
        """Narrow columns of all rows: for what is relative to the whole round."""
        schema = SCHEMAS[name]
        found = tables.stream(getattr(self.args, name), schema, columns)
        empty = pa.schema([schema.field(x) for x in columns]).empty_table()
        return pa.concat_tables([empty, *map(self._kept, found)])

    def agreement(self, targets: pa.Table) -> np.ndarray:
        """How much the teacher agrees with itself at each target's fork (F,)."""
        from pipeline.method.teacher_agreement import agreement

        tokenizer = checkpoints.tokenizer(self.args.policy / "checkpoint" / "tokenizer.json")
        how = (self.p.samples, self.p.metric, tokenizer)
        return agreement(targets, self.each("answers"), *how)

    def prompt_ids(self) -> dict[str, list[int]]:
        """Tokens of the round's prompts, by prompt_id."""
        count = self.p.prompts_per_round
        problems = prompts.read(self.args.prompts, "train", (self.p.round - 1) * count, count)
        return {x.prompt_id: self.student.prompt_ids(x.messages) for x in problems}

    def _kept(self, table: pa.Table) -> pa.Table:
        return table if self.cut is None else self.cut.keep(table)


class Examples:
    """Examples on disk, built again when they are asked for.

    In memory stand 8 bytes an example and 32 bytes a sequence.
    """

    def __init__(self) -> None:
        self._sequences, self._ends = Spool(), np.zeros(1, np.int64)
        self._count = 0
        self.longest = 0  # tokens of a sequence with its context

    def extend(self, examples: Iterable[Example]) -> None:
        for example in examples:
            for sequence in example.sequences:
                self._sequences.add(len(self._sequences), _arrays(sequence))
                length = len(sequence.context_ids) + len(sequence.token_ids)
                self.longest = max(self.longest, length)
            self._count += 1
            if self._count == len(self._ends):
                self._ends = np.resize(self._ends, 2 * len(self._ends))
            self._ends[self._count] = len(self._sequences)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        own = range(self._ends[index], self._ends[index + 1])
        return Example([_sequence(*self._sequences[i]) for i in own])


def _arrays(s: Sequence) -> tuple[np.ndarray, ...]:
    old = () if s.old_logp_T is None else s.old_logp_T
    return (
        np.asarray(s.context_ids, np.int32),
        np.asarray(s.token_ids, np.int32),
        np.asarray(s.signal_T, bool),
        np.asarray(s.weight_T, np.float32),
        np.asarray(s.anchor_T, bool),
        np.asarray(old, np.float32),
    )


def _sequence(context: Any, ids: Any, signal: Any, weight: Any, anchor: Any, old: Any) -> Sequence:
    own = old if len(old) else None
    return Sequence(context.tolist(), ids.tolist(), signal, weight, anchor, own)
