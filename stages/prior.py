"""prior: smooth the evidence at each fork with a two-category Dirichlet prior.

reads   rollouts (log-probabilities), forks, scores; for constant and random another arm's targets;
        for source teacher its checkpoint and the student's tokenizer
writes  targets  one row per fork, in their order
source  arXiv 2606.01476 (weight posterior; the excess is an extension); the geometric mean as prior
        mean and alpha = 1 are from a public re-implementation. pi_bar is a per-token heuristic, not
        the chunk's probability.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import params, params_file
from pipeline.config.method import Adaptive, Weighed
from pipeline.core import seeds
from pipeline.core.disk_rows import Each, Spool, integers
from pipeline.data import aligned, schemas, tables
from pipeline.method import targets
from pipeline.method.adaptive import most
from pipeline.method.posterior import pi_bar
from pipeline.method.weight import weights
from pipeline.stage import cells

SEVERAL = ("scores1?", "scores2?", "scores3?", "scores4?")  # one of each of several teachers
PLACE = ["rollout_id", "position"]
CHUNK = [*PLACE, "length"]
TOKENS = ["prompt_token_ids", "token_ids"]


class PriorParams(Weighed):
    alpha: params.NonNegative
    samples: params.Count | Adaptive  # N
    seed: int
    round: params.Count


def by_teacher(args: argparse.Namespace) -> Spool:
    """The teacher's own log-probabilities of each response, in the order of the rollouts."""
    from tokenizers import Tokenizer

    from pipeline.engines.torch_setup import start

    runtime = params_file.runtime()
    start(runtime)
    from pipeline.engines.hf import white_box
    from pipeline.engines.scoring_pass import exact

    vocabulary = Tokenizer.from_file(str(args.tokenizer)).get_vocab()
    teacher = white_box(args.teacher / "checkpoint", vocabulary, runtime.device)
    total, index = tables.rows(args.rollouts, schemas.ROLLOUTS), 0
    tokens, logps = Spool(total), Spool(total)
    for group in tables.stream(args.rollouts, schemas.ROLLOUTS, TOKENS):
        for pair in zip(*(group[name] for name in TOKENS), strict=True):
            tokens.add(index, tuple(ids.values.to_numpy() for ids in pair))
            index += 1
    prompts, responses = Each(tokens, integers), Each(tokens, lambda row: integers(row[1:]))
    for index, logp_T, _ in exact(teacher, prompts, responses, runtime.batch_tokens):
        logps.add(index, (logp_T,))
    return logps


def _confidence(args: argparse.Namespace, of: Spool | None = None) -> np.ndarray:
    """pi_bar of every fork (F,): by the rollouts' own log-probabilities, or by those in `of`."""
    columns = ["rollout_id"] if of else ["rollout_id", "logprobs"]
    side = aligned.Side(args.forks, schemas.FORKS, "rollouts", CHUNK)
    parts, first = [np.zeros(0)], 0
    for rollouts in aligned.responses(args.rollouts, columns):
        if of:
            logps = [of[i][0] for i in range(first, first + len(rollouts))]
            rollouts = rollouts.append_column("logprobs", pa.array(logps, pa.list_(pa.float32())))
        parts.append(pi_bar(rollouts, side.of(rollouts["rollout_id"])))
        first += len(rollouts)
    side.end()
    return np.concatenate(parts)


def _k_sem(
    args: argparse.Namespace, scores: Path, samples: int | Adaptive
) -> tuple[np.ndarray, np.ndarray]:
    """k_sem of every fork, and n, (F,) each."""
    side = aligned.Side(scores, schemas.SCORES, "forks", [*PLACE, "sample", "similarity"])
    found = [(np.zeros(0), np.zeros(0, np.int64))]
    for forks in aligned.blocks(args.forks, schemas.FORKS, PLACE):
        found.append(targets.k_sem(forks, side.of(forks["rollout_id"]), samples))
    side.end()
    k, n = zip(*found, strict=True)
    return np.concatenate(k), np.concatenate(n)


def _controlled(args: argparse.Namespace, name: str) -> np.ndarray:
    """A column of the controlled arm's targets."""
    groups = tables.stream(args.controlled, schemas.TARGETS, [name])
    return np.concatenate([np.zeros(0), *(group[name].to_numpy() for group in groups)])


def _own(args: argparse.Namespace, p: PriorParams) -> tuple[np.ndarray, np.ndarray]:
    """k_sem of every fork and n, (F,) each, by the arm's own scores."""
    if not p.combine:
        return _k_sem(args, args.scores, p.samples)
    paths = [args.scores1, args.scores2, args.scores3, args.scores4]
    k_sems, counts = zip(*(_k_sem(args, x, p.samples) for x in paths if x), strict=True)
    return targets.combined(np.array(k_sems), most(p.samples), p.combine), counts[0]


def _weighed(args: argparse.Namespace, p: PriorParams) -> tuple[targets.Beliefs, np.ndarray]:
    """What is known of every fork of the round, and the weights (F,) that follow."""
    bar = _confidence(args)
    match p.source:
        case "scores" | "shuffled-weights":
            k, n = _own(args, p)
            found = targets.by_scores(n, k, bar, p.alpha)
            weight_F = weights(p.weight, found.k / found.n, found.hat)
            if p.source == "shuffled-weights":
                weight_F = seeds.generator(p.seed, p.source, p.round).permutation(weight_F)
            return found, weight_F
        case "random":
            draw = seeds.generator(p.seed, "random-scores", p.round)
            k, n = (_controlled(args, name) for name in ("k_sem", "n"))
            drawn = draw.choice(len(k), len(bar)) if len(bar) else np.zeros(0, np.int64)
            found = targets.by_scores(n[drawn], k[drawn], bar, p.alpha)
            if p.weight == "posterior":  # by the student's own confidence at the fork
                return found, found.hat
            return found, _controlled(args, "weight")[drawn]
        case "constant":
            means = [_controlled(args, name) for name in ("pi_hat", "weight")]
            hat, weight = (float(np.mean(one)) if len(one) else 0.0 for one in means)
            return targets.constant(most(p.samples), bar, p.alpha, hat), np.full(len(bar), weight)
        case "teacher":
            found = targets.by_teacher(bar, _confidence(args, by_teacher(args)))
        case "none":
            found = targets.by_scores(0, np.zeros(len(bar)), bar, p.alpha)
    return found, found.hat


def prior(args: argparse.Namespace, p: PriorParams) -> Iterator[pa.Table]:
    """The targets of the cell's source by row groups; in memory 48 bytes a fork."""
    found, weight_F = _weighed(args, p)
    first = 0
    for forks in tables.stream(args.forks, schemas.FORKS, CHUNK):
        yield found.table(forks, first, weight_F)
        first += len(forks)


@cells.entry
def main() -> None:
    inputs = ("rollouts", "forks", "scores?", *SEVERAL, "controlled?", "teacher?", "tokenizer?")
    args = cells.arguments("prior", *inputs)
    p = cells.params("prior", args.cell, PriorParams)
    with (
        cells.running("prior", args) as run,
        tables.growing(args.out / "targets.parquet", schemas.TARGETS) as add,
    ):
        for targets_table in prior(args, p):
            add(targets_table)
            run.rows_out += len(targets_table)
        run.rows_in = run.rows_out


if __name__ == "__main__":
    main()
