"""score: compare each teacher continuation with the chunk that the student wrote.

reads   forks, answers, rollouts (only which prompt a rollout answers); zero reads forks alone
writes  scores  one row per answer, in the order of forks and samples
source  arXiv 2606.01476; the paper leaves phi open, so the metric is a parameter
"""

import argparse
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import cells, params, seeds, similarity, tables
from pipeline.errors import UserError
from pipeline.similarity import Pair

PROBES = 1000  # forks on which agreement between teacher answers is measured
MOST_ZERO = 0.9  # share of forks with k_sem = 0 above which exactness says nothing
LEAST_CONTRAST = 0.03  # agreement at a fork above that between problems


class ScoreParams(params.Score):
    teacher: str
    samples: params.Count  # N
    seed: int
    round: params.Count


def similarities(
    forks: pa.Table, answers: dict[tuple[str, int], list[dict[str, Any]]], p: ScoreParams
) -> np.ndarray:
    """phi (F, N) of each fork's N answers with its chunk, float64 in [0, 1]."""
    pairs = [
        Pair(fork["chunk_text"], fork["ended"], answer["text"], answer["ended"])
        for fork in forks.to_pylist()
        for answer in answers[fork["rollout_id"], fork["position"]]
    ]
    found = np.array(similarity.similarities(pairs, p.metric), np.float64)
    return found.reshape(len(forks), p.samples)


def by_fork(
    forks: pa.Table, answers: pa.Table, samples: int
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Answers of each fork by sample. Raises UserError unless every fork has exactly N."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {
        place: [] for place in zip(*_columns(forks), strict=True)
    }
    for row in answers.select(["rollout_id", "position", "sample", "text", "ended"]).to_pylist():
        place = (row["rollout_id"], row["position"])
        if place not in found:
            raise UserError(f"answers: {place} is no fork. Rerun teach on these forks.")
        found[place].append(row)
    for place, rows in found.items():
        rows.sort(key=lambda row: row["sample"])
        if [row["sample"] for row in rows] != list(range(samples)):
            raise UserError(
                f"answers: fork {place} has {len(rows)} continuations, wanted samples 0 to "
                f"{samples - 1} once each. Rerun teach."
            )
    return found


def _columns(forks: pa.Table) -> tuple[list[str], list[int]]:
    return forks["rollout_id"].to_pylist(), forks["position"].to_pylist()


def contrast(
    forks: pa.Table,
    answers: dict[tuple[str, int], list[dict[str, Any]]],
    prompts: dict[str, str],
    p: ScoreParams,
) -> tuple[float, float] | None:
    """Mean similarity of two teacher answers at one fork, and at forks of different problems.

    None where there is nothing to compare: one sample, or one problem.
    """
    places = list(answers)
    chosen = [
        places[i] for i in np.linspace(0, len(places) - 1, min(len(places), PROBES), dtype=int)
    ]
    half = len(chosen) // 2
    shifted = chosen[half:] + chosen[:half]
    others = [
        (a, b) for a, b in zip(chosen, shifted, strict=True) if prompts[a[0]] != prompts[b[0]]
    ]
    if p.samples < 2 or not others:
        return None
    same = [_pair(answers[place][0], answers[place][1]) for place in chosen]
    different = [_pair(answers[a][0], answers[b][0]) for a, b in others]
    found = np.array(similarity.similarities(same + different, p.metric))
    return float(found[: len(same)].mean()), float(found[len(same) :].mean())


def _pair(one: dict[str, Any], other: dict[str, Any]) -> Pair:
    return Pair(one["text"], one["ended"], other["text"], other["ended"])


def check_flat(found: np.ndarray, levels: tuple[float, float] | None, p: ScoreParams) -> None:
    """Raise UserError if the scores can teach nothing but what the student already does."""
    if p.allow_flat or not found.size:
        return
    remedy = (
        "Use another score.metric or a shorter forks.chunk_tokens, or set score.allow_flat: true "
        "to go on anyway."
    )
    zero = float((found.sum(1) == 0).mean())
    if zero > MOST_ZERO:
        raise UserError(
            f"score: k_sem is 0 in {zero:.0%} of {len(found)} forks with metric {p.metric}, more "
            f"than {MOST_ZERO:.0%}: nothing but self-reinforcement would be left. {remedy}"
        )
    if levels is not None and levels[0] - levels[1] < LEAST_CONTRAST:
        raise UserError(
            f"score: two teacher answers at one fork are {levels[0]:.3f} alike and answers to "
            f"different problems {levels[1]:.3f}, less than {LEAST_CONTRAST} apart with metric "
            f"{p.metric}. {remedy}"
        )


def shuffled(found: np.ndarray, group: list[str], draw: np.random.Generator) -> np.ndarray:
    """`found` (F, N) with its rows permuted within each group: a fork's N values stay together."""
    order = draw.permutation(len(found))
    _, group_F = np.unique(group, return_inverse=True)
    moved = np.empty_like(found)
    moved[np.argsort(group_F, kind="stable")] = found[
        order[np.argsort(group_F[order], kind="stable")]
    ]
    return moved


def table(forks: pa.Table, found: np.ndarray, p: ScoreParams) -> pa.Table:
    ids, positions = _columns(forks)
    count = found.size
    columns = [
        pa.array(np.repeat(np.array(ids, dtype=object), p.samples), pa.string()),
        np.repeat(np.array(positions, np.int32), p.samples),
        np.tile(np.arange(p.samples, dtype=np.int32), len(ids)),
        pa.repeat(p.teacher, count),
        pa.repeat(p.metric, count),
        found.reshape(-1),
    ]
    return pa.Table.from_arrays([pa.array(c) for c in columns], schema=tables.SCORES)


def score(args: argparse.Namespace, forks: pa.Table, p: ScoreParams, run: cells.Run) -> np.ndarray:
    """The similarities of the cell's source, (F, N)."""
    if p.source == "zero":
        return np.zeros((len(forks), p.samples))
    rows = tables.read(args.rollouts, tables.ROLLOUTS, ["rollout_id", "prompt_id"]).to_pylist()
    prompts = {row["rollout_id"]: row["prompt_id"] for row in rows}
    answers = by_fork(forks, tables.read(args.answers, tables.ANSWERS), p.samples)
    found = similarities(forks, answers, p)
    if p.source == "shuffled":
        group = [prompts[name] if p.within == "prompt" else "" for name in _columns(forks)[0]]
        return shuffled(found, group, seeds.generator(p.seed, "shuffled-scores", p.round))
    levels = contrast(forks, answers, prompts, p)
    if levels is not None:
        run.counts["same_fork"], run.counts["other_problem"] = levels
    check_flat(found, levels, p)
    return found


@cells.entry
def main() -> None:
    args = cells.arguments("score", "forks", "answers?", "rollouts?")
    p = cells.params("score", args.cell, ScoreParams)
    with cells.running("score", args) as run:
        forks = tables.read(args.forks, tables.FORKS)
        found = score(args, forks, p, run)
        tables.write(table(forks, found, p), args.out / "scores.parquet", tables.SCORES)
        run.rows_in, run.rows_out = len(forks), found.size


if __name__ == "__main__":
    main()
