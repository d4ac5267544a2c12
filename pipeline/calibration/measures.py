"""The quantities of one metric and chunk length: the rows that have a metric."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.calibration import FLAT, Interval, Row, row
from pipeline.calibration.pairs import Comparisons
from pipeline.calibration.problems import Problems, percentiles
from pipeline.calibration.sample import Response
from pipeline.core import seeds
from pipeline.method import similarity
from pipeline.method.posterior import confidence, posterior

RELIABLE = 0.8  # reliability of a fork's mean that is enough
ROUNDING = 1e-9
SPLITS = 20  # random halves of a fork's samples
POSITIONS = 10  # bins of the profile over position
ENTROPIES = 5  # bins of the profile over entropy, with as many forks each


@dataclass(frozen=True)
class Measured:
    """One metric at one chunk length."""

    metric: str
    tokens: int
    samples: int  # N
    alphas: Sequence[float]
    responses: list[Response]
    asked: Comparisons
    values: dict[str, np.ndarray]  # of each part of `asked`
    problems: Problems

    def row(self, quantity: str, found: Interval, n: int, **more: float | str | None) -> Row:
        return row(self.metric, self.tokens, quantity, found, n, **more)  # type: ignore[arg-type]

    def nothing(self, quantity: str, note: str, n: int = 0) -> Row:
        return self.row(quantity, Interval(None), n, note=note)

    @property
    def own_FN(self) -> np.ndarray:
        return self.values["own"].reshape(-1, self.samples)

    @property
    def response_F(self) -> np.ndarray:
        counts = [len(r.forks) for r in self.responses]
        return np.repeat(np.arange(len(counts)), counts)

    @property
    def problem_F(self) -> np.ndarray:
        return np.asarray(self.problems.of([r.problem for r in self.responses])[self.response_F])

    def by_fork(self, part: str) -> np.ndarray:
        """Mean of each fork's values (F,), NaN where it has none."""
        owner_K = np.array(getattr(self.asked, part).owner_K, np.int64)
        count_F = np.bincount(owner_K, minlength=len(self.response_F))
        sum_F = np.bincount(owner_K, self.values[part], len(self.response_F))
        return np.where(count_F > 0, sum_F / np.maximum(count_F, 1), np.nan)


def rows(m: Measured, *names: str | int) -> list[Row]:
    """Every row of one metric at one chunk length. `names` seed the split halves."""
    found = [*levels(m), within_state(m), reliability(m, *names), *variances(m)]
    found += [*beliefs(m), *profiles(m)]
    return [*found, *correctness(m), *unseen(m), *warnings(found)]


def levels(m: Measured) -> Iterator[Row]:
    """Own fork, floors and ceilings, with the contrasts of the first."""
    own_F, problem_F = m.own_FN.mean(1), m.problem_F
    yield m.row("own", m.problems.mean(own_F, problem_F), len(own_F))
    for floor in ("other-problem", "other-fork"):
        floor_F = m.by_fork(floor.replace("-", "_"))
        here = ~np.isnan(floor_F)
        if not here.any():
            why = "one problem" if floor == "other-problem" else "no response has two forks"
            yield from (
                m.nothing(f"{name}/{floor}", why) for name in ("floor", "contrast", "auroc")
            )
            continue
        where, n = problem_F[here], int(here.sum())
        yield m.row(f"floor/{floor}", m.problems.mean(floor_F[here], where), n)
        contrast = m.problems.mean((own_F - floor_F)[here], where)
        yield m.row(f"contrast/{floor}", contrast, n)
        each = np.repeat(where, m.samples)
        own, other = m.own_FN[here].ravel(), m.values[floor.replace("-", "_")]
        yield m.row(f"auroc/{floor}", m.problems.auroc(own, each, other, each), n)
    for who, why in (
        ("teacher", "one continuation a fork"),
        ("student", "no two samples of a prompt share a state"),
    ):
        value_F = m.by_fork(who)
        here = ~np.isnan(value_F)
        interval = m.problems.mean(value_F[here], problem_F[here])
        note = None if here.any() else why
        yield m.row(f"ceiling/{who}", interval, int(here.sum()), note=note)


def within_state(m: Measured) -> Row:
    """The distance between scores of different chunks in one state."""
    name, states = "contrast/within-state", len(m.asked.fork_of)
    if not states:
        return m.nothing(name, "no state has two different chunks")
    score_C = m.values["chunks"].reshape(-1, m.samples).mean(1)
    apart = np.empty(states)
    for state in range(states):
        own = score_C[m.asked.state_of == state]
        apart[state] = np.abs(own[:, None] - own).sum() / (len(own) * (len(own) - 1))
    return m.row(name, m.problems.mean(apart, m.problem_F[m.asked.fork_of]), states)


def reliability(m: Measured, *names: str | int) -> Row:
    """The reliability of k_sem, from random halves; with odd N each split leaves a sample out."""
    half, forks = m.samples // 2, len(m.own_FN)
    if half < 1:
        return m.nothing("reliability", "one continuation a fork")
    sums_SF = np.empty((2, SPLITS, forks))
    for split in range(SPLITS):
        order = seeds.generator(*names, "halves", split).permutation(m.samples)
        sums_SF[0, split] = m.own_FN[:, order[:half]].sum(1)
        sums_SF[1, split] = m.own_FN[:, order[half : 2 * half]].sum(1)
    r_RS = m.problems.correlations(sums_SF[0], sums_SF[1], m.problem_F)
    longer = m.samples / half
    with np.errstate(divide="ignore", invalid="ignore"):
        # of a negative r there is nothing to correct: the formula has a pole at -1
        r_RS = np.where(r_RS > 0, longer * r_RS / (1 + (longer - 1) * r_RS), r_RS)
    known = np.isfinite(r_RS)
    total_R = np.where(known, r_RS, 0).sum(1)
    mean_R = np.where(known.any(1), total_R / np.maximum(known.sum(1), 1), np.nan)
    interval = percentiles(mean_R, len(set(m.problem_F.tolist())))
    note = "k_sem does not vary between forks" if interval.value is None else None
    return m.row("reliability", interval, forks, note=note)


def variances(m: Measured) -> Iterator[Row]:
    """Yield how k_sem / N varies within and between forks, and how many answers are enough."""
    forks = len(m.own_FN)
    if m.samples < 2 or forks < 2:
        why = "one continuation a fork" if m.samples < 2 else "one fork"
        names = ("variance/within", "variance/between", "recommended")
        yield from (m.nothing(name, why) for name in names)
        return
    within_F = m.own_FN.var(1, ddof=1)
    within = float(within_F.mean())
    between = max(0.0, float(m.own_FN.mean(1).var(ddof=1)) - within / m.samples)
    yield m.row("variance/within", m.problems.mean(within_F, m.problem_F), forks)
    yield m.row("variance/between", Interval(between), forks)
    if between == 0:
        yield m.nothing("recommended", "k_sem does not vary between forks", forks)
        return
    answers = max(1, math.ceil(RELIABLE / (1 - RELIABLE) * within / between - ROUNDING))
    note = (
        f"{m.metric} at {m.tokens} tokens: k_sem / N varies by {between:.4f} between forks and by "
        f"{within:.4f} within one; N = {answers} is enough for a reliability of {RELIABLE}, and "
        f"{m.samples} were looked at."
    )
    yield m.row("recommended", Interval(float(answers)), forks, note=note)


def beliefs(m: Measured) -> Iterator[Row]:
    """Yield what each alpha of the prior would make of the evidence."""
    bar_F = np.array(
        [
            confidence(r.logprobs[fork.position : fork.position + m.tokens])
            for r in m.responses
            for fork in r.forks
        ]
    )
    share_F, forks = m.own_FN.mean(1), len(bar_F)
    for alpha in m.alphas:
        hat_F, sd_F = posterior(share_F * m.samples, bar_F, m.samples, alpha)
        shrinkage = Interval(alpha / (m.samples + alpha))
        yield m.row("shrinkage", shrinkage, forks, bin=alpha)
        sd = m.problems.mean(sd_F, m.problem_F)
        yield m.row("posterior-sd", sd, forks, bin=alpha)
        move = m.problems.mean(np.abs(hat_F - share_F), m.problem_F)
        yield m.row("move", move, forks, bin=alpha)


def profiles(m: Measured) -> Iterator[Row]:
    """Own similarity along the response, and from sure to unsure."""
    own_F, problem_F = m.own_FN.mean(1), m.problem_F
    tenth_F = np.array(
        [f.position * POSITIONS // len(r.token_ids) for r in m.responses for f in r.forks]
    )
    entropy_F = np.array([f.entropy for r in m.responses for f in r.forks])
    edges = np.quantile(entropy_F, np.linspace(0, 1, ENTROPIES + 1)[1:-1])
    fifth_F = np.searchsorted(edges, entropy_F, "right")
    for name, bin_F in (("position", tenth_F), ("entropy", fifth_F)):
        for number in np.unique(bin_F).tolist():
            here = bin_F == number
            place = number / POSITIONS if name == "position" else float(entropy_F[here].mean())
            interval = m.problems.mean(own_F[here], problem_F[here])
            yield m.row(f"profile/{name}", interval, int(here.sum()), bin=place)


def correctness(m: Measured) -> Iterator[Row]:
    """How well agreement with the teacher tells a correct response from a wrong one."""
    rewards = [r.reward for r in m.responses]
    right_B = np.array([reward is not None and reward >= 1 for reward in rewards])
    names = [f"correct/{name}" for name in ("response", "fork", "within-prompt")]
    if None in rewards or right_B.all() or not right_B.any():
        why = "no reward" if None in rewards else "every response is graded alike"
        yield from (m.nothing(name, why) for name in names)
        return
    own_F, response_F = m.own_FN.mean(1), m.response_F
    mean_B = np.bincount(response_F, own_F) / np.bincount(response_F)
    problem_B = m.problems.of([r.problem for r in m.responses])
    for name, value_K, right_K, problem_K in (
        (names[0], mean_B, right_B, problem_B),
        (names[1], own_F, right_B[response_F], m.problem_F),
    ):
        higher = (value_K[right_K], problem_K[right_K])
        interval = m.problems.auroc(*higher, value_K[~right_K], problem_K[~right_K])
        yield m.row(name, interval, len(value_K))
    wins_P, pairs_P = np.zeros((2, len(m.problems.index)))
    for problem in np.unique(problem_B):
        here = problem_B == problem
        gaps = mean_B[here & right_B][:, None] - mean_B[here & ~right_B]
        wins_P[problem], pairs_P[problem] = ((np.sign(gaps) + 1) / 2).sum(), gaps.size
    note = None if pairs_P.any() else "no prompt has both a correct and a wrong response"
    interval = m.problems.ratio(wins_P, pairs_P)
    yield m.row(names[2], interval, int(pairs_P.sum()), note=note)


def unseen(m: Measured) -> Iterator[Row]:
    """Yield, for a metric that can be blind, the share of texts that it does not see all of."""
    if m.metric not in similarity.PARTIAL:
        return
    asked = [
        (r.problem, text.text)
        for r in m.responses
        for fork in r.forks
        for text in (fork.chunk, *fork.answers)
    ]
    blind_K = np.array(similarity.unseen([text for _, text in asked], m.metric), np.float64)
    interval = m.problems.mean(blind_K, m.problems.of([problem for problem, _ in asked]))
    count, note = int(blind_K.sum()), None
    if count:
        note = f"at {m.tokens} tokens {similarity.blind(m.metric, count, len(asked))}."
    yield m.row("unseen", interval, len(asked), note=note)


def warnings(rows: list[Row]) -> Iterator[Row]:
    """The contrast with other forks of the response, where it is flat."""
    level = {r["quantity"]: r for r in rows}
    contrast = level["contrast/other-fork"]
    value, low, high = (contrast[name] for name in ("value", "low", "high"))
    if value is None or (value >= FLAT and (low is None or low > 0)):
        return
    interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    yield contrast | {
        "quantity": "warning",
        "note": (
            f"{contrast['metric']} at {contrast['chunk_tokens']} tokens is flat: own fork "
            f"{level['own']['value']:.3f}, other forks of the same response "
            f"{level['floor/other-fork']['value']:.3f}, contrast {value:+.3f}{interval}. "
            "It predicts no learning."
        ),
    }
