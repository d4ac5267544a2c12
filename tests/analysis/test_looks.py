"""Rows over seeds of what teachers and judges say of held-out prompts."""

import re

import numpy as np
import pytest

from pipeline.analysis import bootstrap, seeds_by_problems
from pipeline.analysis.looks import held_out, judged, over_seeds
from pipeline.report import unevaluated

NAMES = [f"p{i}" for i in range(12)]


def graded(seed, names=NAMES, shift=0.0):
    draw = np.random.default_rng(seed)
    return bootstrap.graded(names, np.clip(draw.random(len(names)) * 0.6 + shift, 0, 1).tolist())


def test_arms_are_pooled_over_seeds_on_the_prompts_that_all_have():
    own = {0: graded(0, shift=0.3), 1: graded(1, shift=0.3), 2: graded(2, NAMES[2:], 0.3)}
    base = {seed: graded(10 + seed) for seed in own}
    found = over_seeds.pool(own, base)
    assert found.prompts == 10
    shares = [
        np.array([dict(zip(g.problems, g.share_B, strict=True))[n] for n in sorted(NAMES[2:])])
        for arm in (own, base)
        for g in arm.values()
    ]
    ours, theirs = np.stack(shares[:3]), np.stack(shares[3:])
    assert found.mean.value == pytest.approx(ours.mean())
    assert found.diff.value == pytest.approx((ours - theirs).mean())
    wanted = seeds_by_problems.crossed(ours - theirs, -1.0).interval
    assert found.diff == pytest.approx(wanted)
    assert found.mean.low < found.mean.value < found.mean.high


def test_nothing_is_pooled_of_one_seed_or_without_a_shared_prompt():
    assert over_seeds.pool({0: graded(0)}) is None
    assert over_seeds.pool({0: graded(0, NAMES[:6]), 1: graded(1, NAMES[6:])}) is None
    alone = over_seeds.pool({0: graded(0), 1: graded(1)}, {0: graded(2)})
    assert alone.diff is None  # base lacks a seed


def test_agreement_has_a_row_over_seeds_and_a_sentence_on_it(monkeypatch):
    shifts = {"base": 0.0, "omniopd": 0.35}
    cells = [
        (arm, seed, 3, {"score-answers": f"{arm}-{seed}"}) for arm in shifts for seed in (0, 1)
    ]
    made = {f"{arm}-{seed}": graded(seed, shift=shifts[arm]) for arm, seed, *_ in cells}
    monkeypatch.setattr(held_out, "rounds", lambda _: iter(cells))
    monkeypatch.setattr(held_out, "_graded", lambda cells, of: made[cells[f"score-{of}"]])
    monkeypatch.setattr(held_out, "_metric", lambda *_: "edit")
    monkeypatch.setattr(held_out, "run_json", lambda *_: {"same_fork": 0.9, "other_problem": 0.3})
    rows = held_out.rows({})
    assert [(row["arm"], row["seed"]) for row in rows] == [
        (arm, seed) for arm in shifts for seed in (0, 1, None)
    ]
    (base,), (over,) = ([r for r in rows if (r["arm"], r["seed"]) == (a, None)] for a in shifts)
    assert base["diff"] is None
    assert over["diff"] == pytest.approx(np.mean([r["diff"] for r in rows[3:5]]))
    assert over["itself"] == 0.9
    (sentence,) = unevaluated.seen(rows)
    assert sentence.startswith("omniopd (2 seeds): ")
    head, body = unevaluated.looks(rows)
    assert [line[head.index("seed")] for line in body] == ["0", "1", "mean"] * 2


def test_a_judges_share_has_a_row_over_seeds(monkeypatch):
    def row(cells):
        own = graded(cells["seed"], shift=0.4)
        counts = {"judge": "j", "won": 5, "tied": 1, "lost": 2, "unread": 0, "consistent": 0.8}
        interval = bootstrap.mean(own.share_B)
        shares = dict(zip(("share", "low", "high"), interval, strict=True))
        return counts | shares | {"prompts": 12}, own

    cells = [("sft", seed, 3, {judged.STAGE: "c", "seed": seed}) for seed in (0, 1, 2)]
    monkeypatch.setattr(judged, "rounds", lambda _: iter(cells))
    monkeypatch.setattr(judged, "_row", row)
    *each, over = judged.rows({})
    assert over["seed"] is None
    assert over["share"] == pytest.approx(np.mean([one["share"] for one in each]))
    assert (over["won"], over["tied"], over["lost"]) == (15, 3, 6)
    (sentence,) = unevaluated.preferred([*each, over])
    assert sentence.startswith("sft (3 seeds): j prefers")
    _, body = unevaluated.judged([*each, over])
    assert [line[1] for line in body] == ["0", "1", "2", "mean"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "j prefers it to base, share"),
        ({"unread": 9}, "no judge of these answers, as 9 of its 17 replies have no verdict, share"),
        ({"consistent": 0.5}, r"as 50% of the pairs got the same .* orders \(a coin: 50%\), share"),
        ({"consistent": None, "unread": 9}, "verdict and no pair got a verdict in both orders, sh"),
    ],
)
def test_a_judge_that_goes_by_the_place_or_says_nothing_prefers_nobody(changed, said):
    row = {"arm": "omniopd", "seed": 0, "judge": "j", "share": 0.8, "low": 0.6, "high": 0.9}
    row |= {"won": 6, "tied": 1, "lost": 1, "unread": 0, "consistent": 0.9, "prompts": 4}
    (sentence,) = unevaluated.preferred([row | changed])
    assert re.search(said, sentence), sentence
