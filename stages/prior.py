"""prior: smooth the evidence at each fork with a two-category Dirichlet prior.

reads   rollouts (log-probabilities), forks, scores; for constant and random another arm's targets;
        for source teacher its checkpoint and the student's tokenizer
writes  targets  one row per fork, in their order
source  arXiv 2606.01476; the geometric mean as prior mean and alpha = 1 are from a public
        re-implementation. pi_bar is a per-token heuristic, not the chunk's probability.
"""

import argparse

import numpy as np
import pyarrow as pa

from pipeline import cells, params, seeds, tables
from pipeline.errors import UserError
from pipeline.posterior import pi_bar, posterior

SEVERAL = ("scores1?", "scores2?", "scores3?", "scores4?")  # one of each of several teachers


class PriorParams(params.Prior):
    samples: params.Count  # N
    seed: int
    round: params.Count


def k_sem(forks: pa.Table, scores: pa.Table, samples: int) -> np.ndarray:
    """Sum of each fork's N similarities, (F,). Raises UserError unless there are exactly N."""
    places = list(zip(forks["rollout_id"].to_pylist(), forks["position"].to_pylist(), strict=True))
    index = {place: i for i, place in enumerate(places)}
    found = zip(scores["rollout_id"].to_pylist(), scores["position"].to_pylist(), strict=True)
    try:
        fork_of = np.array([index[place] for place in found], np.int64)
    except KeyError as error:
        raise UserError(f"scores: {error} is no fork. Rerun score on these forks.") from error
    values = scores["similarity"].to_numpy()
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise UserError(
            f"scores: similarities from {values.min()} to {values.max()}, wanted 0 to 1. "
            "Rerun score."
        )
    counts = np.bincount(fork_of, minlength=len(places))
    if (counts != samples).any():
        wrong = int(np.argmax(counts != samples))
        raise UserError(
            f"scores: fork {places[wrong]} has {counts[wrong]} scores, wanted {samples}. "
            "Rerun score."
        )
    return np.bincount(fork_of, weights=values, minlength=len(places))


def combined(k_TF: np.ndarray, samples: int, how: str) -> np.ndarray:
    """k_sem of several teachers (T, F) as that of one (F,): their mean, or N times the share of
    them whose k_sem is above their own median over the round's forks."""
    if how == "mean":
        return np.asarray(k_TF.mean(0))
    return np.asarray(samples * (k_TF > np.median(k_TF, axis=1, keepdims=True)).mean(0))


def targets(forks: pa.Table, n: int, k: np.ndarray, bar: np.ndarray, alpha: float) -> pa.Table:
    """Posterior Beta(k + alpha pi_bar, n - k + alpha (1 - pi_bar)): its mean and sd, (F,).

    Raises UserError if a mean leaves [0, 1].
    """
    hat, sd = posterior(k, bar, n, alpha)
    if hat.size and not (hat.min() >= 0 and hat.max() <= 1):
        raise UserError(
            f"prior: pi_hat from {hat.min()} to {hat.max()}, wanted 0 to 1. k_sem must be within "
            f"0 and n = {n}. Rerun score."
        )
    return _table(forks, n, k, bar, hat, sd)


def constant(
    forks: pa.Table, n: int, bar: np.ndarray, alpha: float, controlled: pa.Table
) -> pa.Table:
    """Every pi_hat the mean of the controlled arm's; k_sem is the value that implies it."""
    mean = float(np.mean(controlled["pi_hat"].to_numpy())) if len(controlled) else 0.0
    hat = np.full(len(forks), mean)
    sd = np.sqrt(hat * (1 - hat) / (n + alpha + 1))
    return _table(forks, n, hat * (n + alpha) - alpha * bar, bar, hat, sd)


def _table(
    forks: pa.Table, n: int, k: np.ndarray, bar: np.ndarray, hat: np.ndarray, sd: np.ndarray
) -> pa.Table:
    columns = {
        "rollout_id": forks["rollout_id"],
        "position": forks["position"],
        "length": forks["length"],
        "n": np.full(len(forks), n, np.int32),
        "k_sem": k,
        "pi_bar": bar,
        "pi_hat": hat,
        "posterior_sd": sd,
    }
    return pa.table(columns, schema=tables.TARGETS)


def by_teacher(rollouts: pa.Table, forks: pa.Table, args: argparse.Namespace) -> np.ndarray:
    """The teacher's own geometric-mean probability of each chunk (F,): signal without sampling."""
    from tokenizers import Tokenizer

    from pipeline.engines.start import start

    runtime = cells.runtime()
    start(runtime)
    from pipeline.engines.exact import exact
    from pipeline.engines.hf import white_box

    vocabulary = Tokenizer.from_file(str(args.tokenizer)).get_vocab()
    teacher = white_box(args.teacher / "checkpoint", vocabulary, runtime.device)
    prompts, responses = (rollouts[n].to_pylist() for n in ("prompt_token_ids", "token_ids"))
    logprobs: list[list[float]] = [[]] * len(rollouts)
    for index, logp_T, _ in exact(teacher, prompts, responses, runtime.batch_tokens):
        logprobs[index] = logp_T.tolist()
    theirs = {"rollout_id": rollouts["rollout_id"], "logprobs": logprobs}
    return pi_bar(pa.table(theirs), forks)


def prior(args: argparse.Namespace, p: PriorParams) -> pa.Table:
    """The targets of the cell's source."""
    forks = tables.read(args.forks, tables.FORKS)
    rollouts = tables.read(args.rollouts, tables.ROLLOUTS, ["rollout_id", "logprobs"])
    bar = pi_bar(rollouts, forks)
    match p.source:
        case "scores":
            paths = [args.scores1, args.scores2, args.scores3, args.scores4]
            found = [
                k_sem(forks, tables.read(path, tables.SCORES), p.samples)
                for path in (paths if p.combine else [args.scores])
                if path
            ]
            k = combined(np.array(found), p.samples, p.combine) if p.combine else found[0]
            return targets(forks, p.samples, k, bar, p.alpha)
        case "none":
            return targets(forks, 0, np.zeros(len(forks)), bar, p.alpha)
        case "teacher":
            zeros = np.zeros(len(forks))
            whole = tables.read(args.rollouts, tables.ROLLOUTS)
            return _table(forks, 0, zeros, bar, by_teacher(whole, forks, args), zeros)
        case "random":
            controlled = tables.read(args.controlled, tables.TARGETS)
            draw = seeds.generator(p.seed, "random-scores", p.round)
            k = draw.choice(controlled["k_sem"].to_numpy(), len(forks)) if len(forks) else bar
            return targets(forks, p.samples, k, bar, p.alpha)
        case "constant":
            controlled = tables.read(args.controlled, tables.TARGETS)
            return constant(forks, p.samples, bar, p.alpha, controlled)


@cells.entry
def main() -> None:
    inputs = ("rollouts", "forks", "scores?", *SEVERAL, "controlled?", "teacher?", "tokenizer?")
    args = cells.arguments("prior", *inputs)
    p = cells.params("prior", args.cell, PriorParams)
    with cells.running("prior", args) as run:
        found = prior(args, p)
        tables.write(found, args.out / "targets.parquet", tables.TARGETS)
        run.rows_in = run.rows_out = len(found)


if __name__ == "__main__":
    main()
