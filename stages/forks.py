"""forks: pick the positions where the student was least sure.

reads   rollouts, the student's tokenizer; for embedding-variance the round's checkpoint; with a
        gate the grades of the teacher's whole solutions, of prompts that it fails there is no fork
writes  forks  at most max_forks rows per rollout, by position; none for a shorter response
source  arXiv 2606.01476, peak-entropy scheduler; the others are in pipeline/method/schedulers/
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from tqdm import tqdm

from pipeline.config import params_file
from pipeline.config.method import Continued
from pipeline.core import seeds
from pipeline.data import schemas, tables
from pipeline.engines import checkpoints
from pipeline.method.forks import READ, Continue, ForksParams, Row, forks
from pipeline.stage import cells

if TYPE_CHECKING:
    from pipeline.engines.hf import Policy

BLOCK = 128  # responses that are looked at, continued and embedded together


class AskingParams(Continued, ForksParams):
    """The params of a cell of scheduler embedding-variance."""


def _continued(
    student: "Policy", p: AskingParams, rows: list[Row], starts: list[list[int]]
) -> list[list[list[str]]]:
    """Texts of the student's continuations of each start of each response, a chunk long."""
    from pipeline.engines.asks import Ask, Draw
    from pipeline.engines.prefix_sharing import branches

    def ask(row: Row, positions: Sequence[int]) -> Ask:
        context, ids, name = row["prompt_token_ids"], row["token_ids"], row["rollout_id"]
        draws = [
            Draw(t, sample, seeds.number(p.seed, "forks", p.round, name, t, sample))
            for t in positions
            for sample in range(p.continuations)
        ]
        return Ask({t: (*context, *ids[:t]) for t in positions}, draws)

    asks = [ask(row, places) for row, places in zip(rows, starts, strict=True) if places]
    size = params_file.runtime().batch_tokens
    drawn = branches(student, asks, 1.0, p.chunk_tokens, size)
    return [_texts(student, next(drawn), p.continuations) if places else [] for places in starts]


def _texts(student: "Policy", drawn: Sequence[Any], samples: int) -> list[list[str]]:
    texts = [student.decode(one.token_ids).lstrip() for one in drawn]
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def _asking(args: argparse.Namespace, p: ForksParams) -> Continue | None:
    """The round's checkpoint as it continues responses, where the scheduler asks it."""
    if not isinstance(p, AskingParams):
        return None
    from pipeline.engines.torch_setup import start

    runtime = params_file.runtime()
    start(runtime)
    from pipeline.engines.hf import load

    student = load(args.policy / "checkpoint", runtime.device)
    return functools.partial(_continued, student, p)


def gated(scores: Path, least: float) -> set[str]:
    """Prompts of which the teacher's whole solutions are right less often than `least`."""
    found: dict[str, list[float]] = {}
    for group in tables.stream(scores, schemas.SCORES, ["rollout_id", "similarity"]):
        for name, right in zip(*(group[x].to_pylist() for x in group.column_names), strict=True):
            found.setdefault(name, []).append(right)
    return {name for name, rights in found.items() if sum(rights) < least * len(rights)}


@cells.entry
def main() -> None:
    args = cells.arguments("forks", "rollouts", "tokenizer", "policy?", "gate?")
    p = cells.params("forks", args.cell, AskingParams if args.policy else ForksParams)
    with cells.running("forks", args) as run:
        tokenizer, continued = checkpoints.tokenizer(args.tokenizer), _asking(args, p)
        run.rows_in = tables.rows(args.rollouts, schemas.ROLLOUTS)
        closed: set[str] = set() if p.gate is None else gated(args.gate, p.gate)
        if p.gate is not None:
            run.counts["gated_prompts"] = len(closed)
        with (
            tqdm(total=run.rows_in, desc="forks", disable=None) as progress,
            tables.growing(args.out / "forks.parquet", schemas.FORKS) as add,
        ):
            for rollouts in tables.stream(args.rollouts, schemas.ROLLOUTS, READ, BLOCK):
                open_ = [name not in closed for name in rollouts["prompt_id"].to_pylist()]
                kept = rollouts.filter(pa.array(open_, pa.bool_()))
                forks_table = forks(kept, tokenizer, p, p.seed, p.round, continued)
                add(forks_table)
                progress.update(rollouts.num_rows)
                run.rows_out += len(forks_table)


if __name__ == "__main__":
    main()
