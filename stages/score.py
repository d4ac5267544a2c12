"""score: compare each teacher continuation with the chunk that the student wrote.

reads   forks, answers, rollouts (only which prompt a rollout answers); zero reads forks alone;
        a metric of token ids the rollouts' and the student's tokenizer
writes  scores  one row per answer, in the order of forks and samples
source  arXiv 2606.01476; the paper leaves phi open, so the metric is a parameter
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.config import params
from pipeline.config.method import Score
from pipeline.core import seeds
from pipeline.core.disk_rows import Spool
from pipeline.core.errors import UserError
from pipeline.data import aligned, schemas, tables
from pipeline.data.text import chunk
from pipeline.method import similarity
from pipeline.method.scoring import check_flat, shuffled
from pipeline.method.similarity import Pair
from pipeline.stage import cells

PROBES = 1000  # forks on which agreement between teacher answers is measured
PLACE = ["rollout_id", "position"]
CHUNK = [*PLACE, "chunk_text", "ended"]
ANSWER = [*PLACE, "sample", "text", "ended"]
IDS = "token_ids"  # column of answers, and here of forks, for a metric of token ids
Answers = dict[tuple[str, int], list[dict[str, Any]]]  # of each fork, by sample


class ScoreParams(Score):
    within: Literal["round", "prompt"] = "round"  # of shuffled scores alone
    max_unseen: params.Share = 0.05  # of metrics that may be blind to a text
    teacher: str
    samples: params.Count  # N
    seed: int
    round: params.Count


def similarities(
    forks: pa.Table, answers: Answers, p: ScoreParams, tokenizer: Tokenizer | None = None
) -> np.ndarray:
    """phi (F, N) of each fork's N answers with its chunk, float64 in [0, 1]."""
    pairs = [
        _pair(fork | {"text": fork["chunk_text"]}, answer)
        for fork in forks.to_pylist()
        for answer in answers[fork["rollout_id"], fork["position"]]
    ]
    values = np.array(similarity.similarities(pairs, p.metric, tokenizer), np.float64)
    return values.reshape(len(forks), p.samples)


def by_fork(forks: pa.Table, answers: pa.Table, samples: int) -> Answers:
    """Answers of each fork by sample. Raises UserError unless every fork has exactly N."""
    by_place: Answers = {place: [] for place in zip(*_columns(forks), strict=True)}
    for row in answers.to_pylist():
        place = (row["rollout_id"], row["position"])
        if place not in by_place:
            raise UserError(
                f"answers: {place} is no fork, wanted those of these forks. Rerun teach."
            )
        by_place[place].append(row)
    for place, rows in by_place.items():
        rows.sort(key=lambda row: row["sample"])
        if [row["sample"] for row in rows] != list(range(samples)):
            raise UserError(
                f"answers: fork {place} has {len(rows)} continuations, wanted samples 0 to "
                f"{samples - 1} once each. Rerun teach."
            )
    return by_place


def _columns(forks: pa.Table) -> tuple[list[str], list[int]]:
    return forks["rollout_id"].to_pylist(), forks["position"].to_pylist()


def _probes(count: int) -> list[int]:
    """Indices of the forks, evenly spread, on which agreement is measured."""
    return [int(i) for i in np.linspace(0, count - 1, min(count, PROBES), dtype=int)]


def contrast(
    answers: Answers, prompts: dict[str, str], p: ScoreParams, tokenizer: Tokenizer | None = None
) -> tuple[float, float] | None:
    """Mean similarity of two teacher answers at one fork, and at forks of different problems.

    None where there is nothing to compare: one sample, or one problem.
    """
    places = list(answers)
    chosen = [places[i] for i in _probes(len(places))]
    half = len(chosen) // 2
    shifted = chosen[half:] + chosen[:half]
    others = [
        (a, b) for a, b in zip(chosen, shifted, strict=True) if prompts[a[0]] != prompts[b[0]]
    ]
    if p.samples < 2 or not others:
        return None
    same = [_pair(answers[place][0], answers[place][1]) for place in chosen]
    different = [_pair(answers[a][0], answers[b][0]) for a, b in others]
    values = np.array(similarity.similarities(same + different, p.metric, tokenizer))
    return float(values[: len(same)].mean()), float(values[len(same) :].mean())


def _pair(one: dict[str, Any], other: dict[str, Any]) -> Pair:
    ids = (tuple(row.get(IDS, ())) for row in (one, other))
    return Pair(one["text"], one["ended"], other["text"], other["ended"], *ids)


def check_seen(unseen: int, texts: int, p: ScoreParams) -> None:
    """Warn of texts that the metric does not see all of. Raise UserError if they are too many."""
    if not unseen:
        return
    said = f"score: {similarity.blind(p.metric, unseen, texts)}"
    if unseen > p.max_unseen * texts:
        remedy = f"raise score.max_unseen = {p.max_unseen}, the share of texts that may be so"
        raise UserError(f"{said}, or {remedy}.")
    cells.log.warning(f"{said}.")


def table(forks: pa.Table, values: np.ndarray, p: ScoreParams) -> pa.Table:
    ids, positions = _columns(forks)
    count = values.size
    columns = [
        pa.array(np.repeat(np.array(ids, dtype=object), p.samples), pa.string()),
        np.repeat(np.array(positions, np.int32), p.samples),
        np.tile(np.arange(p.samples, dtype=np.int32), len(ids)),
        pa.repeat(p.teacher, count),
        pa.repeat(p.metric, count),
        values.reshape(-1),
    ]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=schemas.SCORES)


def scored(args: argparse.Namespace, p: ScoreParams, run: cells.Run) -> Iterator[pa.Table]:
    """The scores of the cell's source, a row group of forks at a time."""
    match p.source:
        case "zero":
            for forks in tables.stream(args.forks, schemas.FORKS, PLACE):
                yield table(forks, np.zeros((len(forks), p.samples)), p)
        case "shuffled":
            yield from _shuffled(args, p, run)
        case _:
            yield from _own(args, p, run)


def _tokenizer(args: argparse.Namespace) -> Tokenizer | None:
    """The student's, which cells have whose metric compares its ids."""
    if args.tokenizer is None:
        return None
    from pipeline.engines import checkpoints

    return checkpoints.tokenizer(args.tokenizer)


def _forks(args: argparse.Namespace, tokenizer: Tokenizer | None) -> Iterator[pa.Table]:
    """The forks, a row group at a time; with a tokenizer, with the ids of their chunks."""
    if tokenizer is None:
        yield from aligned.blocks(args.forks, schemas.FORKS, CHUNK)
        return
    side = aligned.Side(args.forks, schemas.FORKS, "rollouts", [*CHUNK, "length"])
    for rollouts in aligned.responses(args.rollouts, ["rollout_id", IDS, "finish_reason"]):
        forks = side.of(rollouts["rollout_id"])
        written = {row["rollout_id"]: row for row in rollouts.to_pylist()}
        places = ((written[fork["rollout_id"]], fork) for fork in forks.to_pylist())
        ids = [chunk(tokenizer, *place) for place in places]
        yield forks.append_column(IDS, pa.array(ids, schemas.ANSWERS.field(IDS).type))
    side.end()


def _compared(
    args: argparse.Namespace, p: ScoreParams, run: cells.Run, tokenizer: Tokenizer | None
) -> Iterator[tuple[pa.Table, Answers, np.ndarray]]:
    """Forks, their answers, and the similarities (F, N) of the two, a row group at a time."""
    columns = ANSWER if tokenizer is None else [*ANSWER, IDS]
    answers, unseen, texts = aligned.Side(args.answers, schemas.ANSWERS, "forks", columns), 0, 0
    for forks in _forks(args, tokenizer):
        own = by_fork(forks, answers.of(forks["rollout_id"]), p.samples)
        yield forks, own, similarities(forks, own, p, tokenizer)
        read = [row["text"] for rows in own.values() for row in rows]
        read += forks["chunk_text"].to_pylist()
        unseen, texts = unseen + sum(similarity.unseen(read, p.metric)), texts + len(read)
    answers.end()
    if p.metric in similarity.PARTIAL:
        run.counts["unseen"] = unseen / max(texts, 1)
    check_seen(unseen, texts, p)


def _own(args: argparse.Namespace, p: ScoreParams, run: cells.Run) -> Iterator[pa.Table]:
    """Yield scores and check that they can teach anything. RAM: 8 bytes a fork, and the probes."""
    total = tables.rows(args.forks, schemas.FORKS)
    probes = set(_probes(total))
    answers: Answers = {}
    k_sems, first, tokenizer = [], 0, _tokenizer(args)
    for forks, own, scores in _compared(args, p, run, tokenizer):
        places = zip(*_columns(forks), strict=True)
        chosen = {x for i, x in enumerate(places, first) if i in probes}
        answers |= {place: rows[:2] for place, rows in own.items() if place in chosen}
        k_sems.append(scores.sum(1))
        first += len(forks)
        yield table(forks, scores, p)
    prompts = _prompts(args.rollouts, {name for name, _ in answers})
    levels = contrast(answers, prompts, p, tokenizer)
    if levels is not None:
        run.counts["same_fork"], run.counts["other_problem"] = levels
    check_flat(np.concatenate([*k_sems, np.zeros(0)])[:, None], levels, p)


def _prompts(rollouts: Path, wanted: set[str]) -> dict[str, str]:
    """prompt_id of the responses `wanted`."""
    return {
        name: prompt
        for group in tables.stream(rollouts, schemas.ROLLOUTS, ["rollout_id", "prompt_id"])
        for name, prompt in zip(*(group[x].to_pylist() for x in group.column_names), strict=True)
        if name in wanted
    }


def _shuffled(args: argparse.Namespace, p: ScoreParams, run: cells.Run) -> Iterator[pa.Table]:
    """The same in another order. The similarities wait on disk: in memory 40 bytes a fork."""
    total = tables.rows(args.forks, schemas.FORKS)
    kept, groups = Spool(total), np.zeros(total, np.int64)
    first = 0
    for forks, _, scores in _compared(args, p, run, _tokenizer(args)):
        for i, values in enumerate(scores, first):
            kept.add(i, (values,))
        first += len(forks)
    if p.within == "prompt":
        groups = _groups(args, total)
    order = shuffled(np.arange(total), groups, seeds.generator(p.seed, "shuffled-scores", p.round))
    first = 0
    for forks in tables.stream(args.forks, schemas.FORKS, PLACE):
        moved = [kept[i][0] for i in order[first : first + len(forks)].tolist()]
        first += len(forks)
        yield table(forks, np.reshape(moved, (-1, p.samples)), p)


def _groups(args: argparse.Namespace, total: int) -> np.ndarray:
    """A number for each fork, equal where the prompt is."""
    prompts: dict[str, int] = {}
    rollouts = tables.stream(args.rollouts, schemas.ROLLOUTS, ["rollout_id", "prompt_id"])
    forks = aligned.Side(args.forks, schemas.FORKS, "rollouts", ["rollout_id"])
    numbers, first = np.zeros(total, np.int64), 0
    for group in rollouts:
        names, own = (group[x].to_pylist() for x in group.column_names)
        number = {n: prompts.setdefault(x, len(prompts)) for n, x in zip(names, own, strict=True)}
        here = forks.of(group["rollout_id"])["rollout_id"].to_pylist()
        numbers[first : first + len(here)] = [number[name] for name in here]
        first += len(here)
    forks.end()
    return numbers


@cells.entry
def main() -> None:
    args = cells.arguments("score", "forks", "answers?", "rollouts?", "tokenizer?")
    p = cells.params("score", args.cell, ScoreParams)
    with (
        cells.running("score", args) as run,
        tables.growing(args.out / "scores.parquet", schemas.SCORES) as add,
    ):
        for scores_table in scored(args, p, run):
            add(scores_table)
            run.rows_out += len(scores_table)
        run.rows_in = tables.rows(args.forks, schemas.FORKS)


if __name__ == "__main__":
    main()
