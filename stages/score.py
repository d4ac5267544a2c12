"""score: compare each teacher continuation with the chunk that the student wrote.

reads   forks, answers, rollouts (only which prompt a rollout answers); zero reads forks alone;
        a metric of token ids the rollouts' and the student's tokenizer; outcome, which grades what
        answers end with, the prompts, of whole solutions no forks
writes  scores  one row per answer, in the order of forks and samples
source  arXiv 2606.01476; the paper leaves phi open, so the metric is a parameter
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.config import params
from pipeline.config.method import Adaptive, Compared, Within
from pipeline.config.problems import Prepare
from pipeline.core import seeds
from pipeline.core.disk_rows import Spool
from pipeline.core.errors import UserError
from pipeline.data import aligned, prompts, schemas, tables
from pipeline.method import scoring, similarity
from pipeline.method.adaptive import most
from pipeline.method.scoring import IDS, Answers
from pipeline.stage import cells

PLACE = ["rollout_id", "position"]
CHUNK = [*PLACE, "chunk_text", "ended"]
ANSWER = [*PLACE, "sample", "text", "ended"]
OUTCOME = "outcome"  # in the column of the metric


class ScoreParams(Compared):
    within: Within | None = None  # of shuffled scores alone
    max_unseen: params.Share | None = None  # of metrics that may be blind to a text
    teacher: str
    samples: params.Count | Adaptive  # N
    seed: int
    round: params.Count


class OutcomeParams(ScoreParams):
    """The params of a cell that grades."""

    prepare: Prepare
    prompts_per_round: params.Count


def check_seen(unseen: int, texts: int, p: ScoreParams) -> None:
    """Warn of texts that the metric does not see all of. Raise UserError if they are too many."""
    if not unseen:
        return
    assert p.max_unseen is not None  # these cells have it
    said = f"score: {similarity.blind(p.metric, unseen, texts)}"
    if unseen > p.max_unseen * texts:
        remedy = f"raise score.max_unseen = {p.max_unseen}, the share of texts that may be so"
        raise UserError(f"{said}, or {remedy}.")
    cells.log.warning(f"{said}.")


def scored(args: argparse.Namespace, p: ScoreParams, run: cells.Run) -> Iterator[pa.Table]:
    """The scores of the cell's source, a row group of forks at a time."""
    match p.source:
        case "zero":
            for forks in tables.stream(args.forks, schemas.FORKS, PLACE):
                zeros = np.zeros((len(forks), most(p.samples)))
                yield scoring.table(forks, zeros, p.teacher, p.metric)
        case "shuffled":
            yield from _shuffled(args, p, run)
        case "outcome":
            assert isinstance(p, OutcomeParams)
            yield from _graded(args, p, run)
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
        yield scoring.with_chunk_ids(side.of(rollouts["rollout_id"]), rollouts, tokenizer)
    side.end()


def _compared(
    args: argparse.Namespace, p: ScoreParams, run: cells.Run, tokenizer: Tokenizer | None
) -> Iterator[tuple[pa.Table, Answers, np.ndarray]]:
    """Forks, their answers, and the similarities (F, N) of the two, a row group at a time."""
    columns = ANSWER if tokenizer is None else [*ANSWER, IDS]
    answers, unseen, texts = aligned.Side(args.answers, schemas.ANSWERS, "forks", columns), 0, 0
    for forks in _forks(args, tokenizer):
        own = scoring.by_fork(forks, answers.of(forks["rollout_id"]), p.samples)
        n = most(p.samples)
        yield forks, own, scoring.similarities(forks, own, n, p.metric, tokenizer)
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
    probes = set(scoring.probes(total))
    answers: Answers = {}
    k_sems, first, tokenizer = [], 0, _tokenizer(args)
    for forks, own, scores in _compared(args, p, run, tokenizer):
        places = zip(*scoring.columns(forks), strict=True)
        chosen = {x for i, x in enumerate(places, first) if i in probes}
        answers |= {place: rows[:2] for place, rows in own.items() if place in chosen}
        k_sems.append(np.nansum(scores, 1))
        first += len(forks)
        yield scoring.table(forks, scores, p.teacher, p.metric)
    prompts = _prompts(args.rollouts, {name for name, _ in answers})
    levels = scoring.contrast(answers, prompts, most(p.samples), p.metric, tokenizer)
    if levels is not None:
        run.counts["same_fork"], run.counts["other_problem"] = levels
    if not p.allow_flat:
        k_F = np.concatenate([*k_sems, np.zeros(0)])
        scoring.check_flat(k_F[:, None], levels, p.metric)


def _prompts(rollouts: Path, wanted: set[str] | None = None) -> dict[str, str]:
    """prompt_id of the responses `wanted`, or of all."""
    return {
        name: prompt
        for group in tables.stream(rollouts, schemas.ROLLOUTS, ["rollout_id", "prompt_id"])
        for name, prompt in zip(*(group[x].to_pylist() for x in group.column_names), strict=True)
        if wanted is None or name in wanted
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
    draw = seeds.generator(p.seed, "shuffled-scores", p.round)
    order = scoring.shuffled(np.arange(total), groups, draw)
    first = 0
    for forks in tables.stream(args.forks, schemas.FORKS, PLACE):
        moved = [kept[i][0] for i in order[first : first + len(forks)].tolist()]
        first += len(forks)
        values = np.reshape(moved, (-1, most(p.samples)))
        yield scoring.table(forks, values, p.teacher, p.metric)


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


def _graded(args: argparse.Namespace, p: OutcomeParams, run: cells.Run) -> Iterator[pa.Table]:
    """1 for each answer that ends right behind the student's prefix, else 0."""
    from pipeline import tasks

    count, checker = p.prompts_per_round, tasks.load(p.prepare)
    found = prompts.read(args.prompts, "train", (p.round - 1) * count, count)
    asked = {prompt.prompt_id: prompt for prompt in found}

    def right(prompt_id: str, text: str) -> float:
        prompt = asked[prompt_id]
        return float(tasks.grade(checker, prompt.task, text, prompt.answer, run.counts).correct)

    answers = aligned.Side(args.answers, schemas.ANSWERS, "forks", ANSWER)
    prompt_ids = _prompts(args.rollouts) if args.rollouts else {name: name for name in asked}
    for forks in _places(args, list(asked)):
        own = scoring.by_fork(forks, answers.of(forks["rollout_id"]), p.samples)
        prefixes = dict(zip(own, forks["prefix_text"].to_pylist(), strict=True))
        values = [
            [right(prompt_ids[place[0]], prefixes[place] + row["text"]) for row in rows]
            for place, rows in own.items()
        ]
        yield scoring.table(forks, scoring.padded(values, most(p.samples)), p.teacher, OUTCOME)
    answers.end()


def _places(args: argparse.Namespace, names: list[str]) -> Iterator[pa.Table]:
    """Places with the text before them, some at a time; of whole solutions those of prompts."""
    if args.forks is not None:
        yield from aligned.blocks(args.forks, schemas.FORKS, [*PLACE, "prefix_text"])
        return
    zeros = pa.array(np.zeros(len(names), np.int32))
    yield pa.table({"rollout_id": names, "position": zeros, "prefix_text": [""] * len(names)})


@cells.entry
def main() -> None:
    inputs = ("forks?", "answers?", "rollouts?", "tokenizer?", "prompts?")
    args = cells.arguments("score", *inputs)
    graded = args.prompts is not None
    p = cells.params("score", args.cell, OutcomeParams if graded else ScoreParams)
    with (
        cells.running("score", args) as run,
        tables.growing(args.out / "scores.parquet", schemas.SCORES) as add,
    ):
        for scores_table in scored(args, p, run):
            add(scores_table)
            run.rows_out += len(scores_table)
        run.rows_in = tables.rows(args.forks, schemas.FORKS) if args.forks else run.rows_out


if __name__ == "__main__":
    main()
