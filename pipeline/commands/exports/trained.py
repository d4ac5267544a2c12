"""The rollouts of a round with what the arm trains on: per-token weights and masks.

The same examples as those of stage train, made by the same functions: baselines, kl_scope: all and
the prompts that experiment.match cuts are in them. Rollouts are read a row group at a time; of the
targets a few numbers a fork stand in memory.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commands.exports.source import Source
from pipeline.config.teachers import Price
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.method.objectives import Sequence
from pipeline.plan import budget_caps
from pipeline.training.evidence import budget_matching


class Trained(NamedTuple):
    row: dict[str, Any]  # of the rollouts table
    tokens: Sequence  # weight_T and signal_T of the chunks, anchor_T elsewhere


def trained(source: Source) -> Iterator[Trained]:
    """The round's rollouts in their order. Raises UserError where there are no targets."""
    from pipeline.method.objectives.weighted import chunked, everywhere

    cut = _cut(source)
    targets = tables.read(source.folder("prior") / "targets.parquet", schemas.TARGETS)
    targets = targets.select(["rollout_id", "position", "length", "weight"])
    targets = targets if cut is None else cut.keep(targets)
    weight_F, used = _weights(source, targets, cut), 0
    for group in tables.stream(source.folder("rollout") / "rollouts.parquet", schemas.ROLLOUTS):
        kept = group if cut is None else cut.keep(group)
        here = pc.is_in(targets["rollout_id"], kept["rollout_id"].combine_chunks())
        rows = targets.filter(here).to_pylist()
        weights = weight_F[here.to_numpy(zero_copy_only=False)].tolist()
        places = [
            (row["rollout_id"], row["position"], row["length"], weight)
            for row, weight in zip(rows, weights, strict=True)
        ]
        used += len(places)
        examples = chunked(kept, places, "targets")
        if source.train.get("anchor") == "all":
            examples = everywhere(examples)
        for row, example in zip(kept.to_pylist(), examples, strict=True):
            yield Trained(row, example.sequences[0])
    if used != len(targets):
        raise UserError(
            f"targets: {len(targets) - used} of {len(targets)} are of no rollout of the round. "
            "Run `dvc repro`."
        )


def write(rows: Iterable[dict[str, Any]], path: Path, schema: pa.Schema) -> None:
    """Write a Parquet file, holding a row group at once."""
    rows = iter(rows)
    with tables.writer(path, schema) as out:
        while group := list(itertools.islice(rows, tables.ROWS_PER_GROUP)):
            out.write_table(pa.Table.from_pylist(group, schema=schema))


def messages(source: Source) -> dict[str, dict[str, Any]]:
    """Rows of the prompts table by prompt_id."""
    table = tables.read(source.prompts, schemas.PROMPTS)
    return {row["prompt_id"]: row for row in table.to_pylist() if row["split"] == "train"}


def _weights(source: Source, targets: pa.Table, cut: budget_matching.Cut | None) -> np.ndarray:
    """Weight (F,) of each target, less the baseline where the arm has one."""
    from pipeline.method.objectives import omniopd

    p = source.train
    if p.get("baseline", "none") == "teacher-agreement":
        from pipeline.method.teacher_agreement import agreement

        answers = tables.stream(source.folder("teach") / "answers.parquet", schemas.ANSWERS)
        kept = (part if cut is None else cut.keep(part) for part in answers)
        tokenizer = checkpoints.tokenizer(source.policy / "tokenizer.json")
        agreed = agreement(targets, kept, p["samples"], p["metric"], tokenizer)
        return np.asarray(targets["weight"].to_numpy() - agreed)
    path, names = source.folder("rollout") / "rollouts.parquet", ["rollout_id", "prompt_id"]
    rollouts = tables.read(path, schemas.ROLLOUTS, names)
    forks = targets["rollout_id"].to_pylist()
    return omniopd.centred(rollouts, forks, targets["weight"], p.get("baseline", "none"))


def _cut(source: Source) -> budget_matching.Cut | None:
    """The responses that experiment.match leaves to train on; None where it cuts no prompt."""
    p = source.train
    match, cap = p.get("match"), p.get("cap")
    if match in (None, "optimizer_steps") or cap is None:
        return None
    rollouts = source.folder("rollout") / "rollouts.parquet"
    if match not in budget_caps.PRICED:
        read = tables.stream(rollouts, schemas.ROLLOUTS)
        return budget_matching.cut(budget_matching.by_rollouts(read, only_right=False), cap, match)
    answers = source.root / "data/teach" / source.cell("train")["answers"] / "answers.parquet"
    price = Price.model_validate(p["price"]) if p.get("price") else None
    return budget_matching.cut(budget_matching.teacher_tokens(rollouts, answers, price), cap, match)
