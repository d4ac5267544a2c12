"""prior: smooth the evidence at each fork with a two-category Dirichlet prior.

reads   rollouts (log-probabilities), forks, scores; for constant and random another arm's targets;
        for source teacher its checkpoint and the student's tokenizer
writes  targets  one row per fork, in their order
source  arXiv 2606.01476; the geometric mean as prior mean and alpha = 1 are from a public
        re-implementation. pi_bar is a per-token heuristic, not the chunk's probability.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import params, params_file
from pipeline.config.method import Prior
from pipeline.core import seeds
from pipeline.core.disk_rows import Each, Spool, integers
from pipeline.data import aligned, schemas, tables
from pipeline.method import targets
from pipeline.method.posterior import pi_bar
from pipeline.stage import cells

SEVERAL = ("scores1?", "scores2?", "scores3?", "scores4?")  # one of each of several teachers
PLACE = ["rollout_id", "position"]
CHUNK = [*PLACE, "length"]
TOKENS = ["prompt_token_ids", "token_ids"]


class PriorParams(Prior):
    samples: params.Count  # N
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


def _k_sem(args: argparse.Namespace, scores: Path, samples: int) -> np.ndarray:
    """k_sem of every fork (F,)."""
    side = aligned.Side(scores, schemas.SCORES, "forks", [*PLACE, "sample", "similarity"])
    found = [np.zeros(0)]
    for forks in aligned.blocks(args.forks, schemas.FORKS, PLACE):
        found.append(targets.k_sem(forks, side.of(forks["rollout_id"]), samples))
    side.end()
    return np.concatenate(found)


def _controlled(args: argparse.Namespace, name: str) -> np.ndarray:
    """A column of the controlled arm's targets."""
    groups = tables.stream(args.controlled, schemas.TARGETS, [name])
    return np.concatenate([np.zeros(0), *(group[name].to_numpy() for group in groups)])


def _evidence(args: argparse.Namespace, p: PriorParams, bar: np.ndarray) -> np.ndarray:
    """k_sem of every fork (F,); of the sources without one the weight itself."""
    match p.source:
        case "scores":
            paths = [args.scores1, args.scores2, args.scores3, args.scores4]
            k_sems = [
                _k_sem(args, path, p.samples)
                for path in (paths if p.combine else [args.scores])
                if path
            ]
            if not p.combine:
                return k_sems[0]
            return targets.combined(np.array(k_sems), p.samples, p.combine)
        case "none":
            return np.zeros(len(bar))
        case "teacher":
            return _confidence(args, by_teacher(args))
        case "random":
            draw = seeds.generator(p.seed, "random-scores", p.round)
            return draw.choice(_controlled(args, "k_sem"), len(bar)) if len(bar) else bar
        case "constant":
            hat = _controlled(args, "pi_hat")
            return np.full(len(bar), np.mean(hat) if len(hat) else 0.0)


def prior(args: argparse.Namespace, p: PriorParams) -> Iterator[pa.Table]:
    """The targets of the cell's source by row groups; in memory 16 bytes a fork."""
    bar = _confidence(args)
    found, first = _evidence(args, p, bar), 0
    for forks in tables.stream(args.forks, schemas.FORKS, CHUNK):
        here = slice(first, first + len(forks))
        yield targets.by_source(p.source, forks, p.samples, found[here], bar[here], p.alpha)
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
