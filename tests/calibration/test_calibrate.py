"""Calibration on hand-made tables, against sums written out plainly and against known truths."""

import itertools
import json
import math
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import mannwhitneyu

from pipeline.calibration import Text, measures, pairs, placement, sample, summary
from pipeline.calibration.problems import Problems
from pipeline.config.method import Forks
from pipeline.core import seeds
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.engines import char_tokenizer
from pipeline.method import forks as method_forks
from pipeline.report import calibration_picture
from stages import calibrate

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 ,;"
TOKENIZER = char_tokenizer.tokenizer(ALPHABET).backend_tokenizer
END = "$"  # of a text in these tests: the response or the continuation ended there
EOS = 1


def ids_of(text):
    ids = TOKENIZER.encode(text.removesuffix(END), add_special_tokens=False).ids
    return ids + [EOS] * text.endswith(END)


def response(problem, text, forks, reward=None, logprob=-0.5):
    """forks: {position: the teacher's continuations}."""
    return {"problem": problem, "text": text, "forks": forks, "reward": reward, "logp": logprob}


def written(folder, responses, chunk):
    """Paths of the rollouts, forks and answers of some responses, called r0, r1, ..."""
    rollouts, forks, answers = [], [], []
    for number, r in enumerate(responses):
        ids, name = ids_of(r["text"]), f"r{number}"
        stopped = r["text"].endswith(END)
        rollouts.append(
            {
                "rollout_id": name,
                "prompt_id": r["problem"],
                "sample": number,
                "round": 1,
                "prompt_token_ids": [2],
                "token_ids": ids,
                "logprobs": [r["logp"]] * len(ids),
                "entropies": [0.01 * t for t in range(len(ids))],
                "text": r["text"].removesuffix(END),
                "finish_reason": "stop" if stopped else "length",
                "reward": r["reward"],
            }
        )
        for fork, (position, said) in enumerate(sorted(r["forks"].items())):
            whole = r["text"].removesuffix(END)
            forks.append(
                {
                    "rollout_id": name,
                    "fork": fork,
                    "position": position,
                    "length": chunk,
                    "entropy": 0.01 * position,
                    "prefix_text": whole[:position],
                    "chunk_text": whole[position : position + chunk],
                    "ended": stopped and position + chunk >= len(ids),
                }
            )
            answers += [answer(name, position, i, text) for i, text in enumerate(said)]
    paths = tuple(folder / f"{name}.parquet" for name in ("rollouts", "forks", "answers"))
    declared = (schemas.ROLLOUTS, schemas.FORKS, schemas.ANSWERS)
    for rows, path, schema in zip((rollouts, forks, answers), paths, declared, strict=True):
        tables.write(pa.Table.from_pylist(rows, schema=schema), path, schema)
    return paths


def answer(name, position, number, text):
    return {
        "rollout_id": name,
        "position": position,
        "sample": number,
        "teacher": "t",
        "text": text.removesuffix(END),
        "ended": text.endswith(END),
        "finish_reason": "stop",
        "model_returned": "m",
        "prompt_tokens": 1,
        "completion_tokens": len(text),
        "request_key": "k",
        "token_ids": ids_of(text.removesuffix(END)),
    }


def params(chunk, samples, **changes):
    values = {
        "metrics": ["exact"],
        "lengths": [chunk],
        "alphas": [1.0],
        "forks": 400,
        "scheduler": "peak-entropy",
        "max_forks": 2,
        "chunk_tokens": chunk,
        "samples": samples,
        "teacher": "t",
        "seed": 0,
        "round": 1,
    }
    return calibrate.CalibrateParams.model_validate_json(json.dumps(values | changes))


def calibrated(folder, responses, chunk, samples, **changes):
    """Rows of the table by (metric, tokens, quantity), as it is written and read."""
    p = params(chunk, samples, **changes)
    paths = written(folder, responses, chunk)
    chosen = sample.choose(*paths[:2], p.forks, *p.names)
    rows = calibrate.calibrate(sample.read(paths, chosen, samples, TOKENIZER), TOKENIZER, p)
    table = pa.Table.from_pylist(rows, schema=schemas.CALIBRATION)
    tables.write(table, folder / "calibration.parquet", schemas.CALIBRATION)
    return tables.read(folder / "calibration.parquet", schemas.CALIBRATION).to_pylist()


def found(rows, quantity, metric="exact", tokens=None):
    """The one row of a quantity."""
    (row,) = [
        r
        for r in rows
        if r["quantity"] == quantity
        and r["metric"] == metric
        and tokens in (None, r["chunk_tokens"])
    ]
    return row


def words(draw, length):
    return "".join(draw.choice(list("abcdefghijklmnop"), length))


def varied(teacher, problems=30, forks=2, chunk=3, samples=4):
    """One response a problem with random text; `teacher(chunk, draw)` writes a continuation."""
    draw, made = np.random.default_rng(0), []
    for problem in range(problems):
        text = words(draw, forks * chunk)
        own = {
            start: [teacher(text[start : start + chunk], draw) for _ in range(samples)]
            for start in range(0, forks * chunk, chunk)
        }
        made.append(response(f"p{problem}", text, own))
    return made


def test_copies_of_the_students_chunk_give_contrast_1_and_auroc_1(tmp_path):
    rows = calibrated(tmp_path, varied(lambda chunk, _: chunk), 3, 4)
    for quantity in ("own", "ceiling/teacher", "contrast/other-fork", "auroc/other-fork"):
        row = found(rows, quantity)
        assert (row["value"], row["low"], row["high"]) == (1, 1, 1), quantity
    assert found(rows, "contrast/other-problem")["value"] == 1
    assert found(rows, "floor/other-fork")["value"] == 0
    assert found(rows, "own")["n"] == 60
    assert not [r for r in rows if r["quantity"] == "warning"]


def test_answers_that_know_nothing_of_the_fork_are_flat_and_warned_of(tmp_path):
    rows = calibrated(tmp_path, varied(lambda _, draw: words(draw, 3)), 3, 4, metrics=["edit"])
    row = found(rows, "contrast/other-fork", "edit")
    assert abs(row["value"]) < 0.05
    assert row["low"] <= 0 <= row["high"]
    assert found(rows, "auroc/other-fork", "edit")["value"] == pytest.approx(0.5, abs=0.05)
    (warning,) = [r for r in rows if r["quantity"] == "warning"]
    assert warning["note"].startswith("edit at 3 tokens is flat: own fork ")
    assert (
        f"contrast {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" in warning["note"]
    )
    assert warning["value"] == row["value"]


def test_a_contrast_below_the_limit_is_flat_even_when_it_is_certain():
    level = {"own": 0.5, "floor/other-fork": 0.48, "contrast/other-fork": 0.02}
    rows = [
        {"metric": "edit", "chunk_tokens": 3, "quantity": name, "value": value, "n": 9}
        | {"low": value - 0.01, "high": value + 0.01, "bin": None, "note": None}
        for name, value in level.items()
    ]
    assert len(list(measures.warnings(rows))) == 1
    rows[2] |= {"value": 0.04, "low": 0.03}
    assert list(measures.warnings(rows)) == []
    rows[2] |= {"low": 0.0}
    assert len(list(measures.warnings(rows))) == 1


TWO = [  # two forks each, so that the other fork is known
    response("p", "abcdef", {0: ["abc", "abx"], 3: ["def", "abc"]}, 1.0, -0.1),
    response("p", "abxdef", {0: ["abc", "abx"], 3: ["dex", "yyy"]}, 0.0, -0.2),
    response("q", "ghijkl", {0: ["ghi", "gab"], 3: ["zzz", "zzy"]}, 0.0, -0.3),
    response("s", "mnopq$", {0: ["mno", "mno"], 3: ["pq$", "pq"]}, 1.0, -0.4),
]


def alike(one, other, metric):
    """Similarity of two texts, written plainly."""
    if metric == "exact":
        return float(one == other)
    both = zip(one, other, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda ab: ab[0] == ab[1], both))
    return common / max(len(one), len(other)) if one or other else 1.0


def shorter(text, tokens):
    return text[:tokens]  # a character is a token, and so is the end


def test_levels_are_those_of_a_plain_sum(tmp_path):
    rows = calibrated(tmp_path, TWO, 3, 2, metrics=["exact", "prefix"], lengths=[2, 3])
    for metric, tokens in itertools.product(("exact", "prefix"), (2, 3)):

        def like(one, other, metric=metric, tokens=tokens):
            one, other = shorter(one, tokens), shorter(other, tokens)
            if metric == "prefix":  # of texts alone
                one, other = one.rstrip(END), other.rstrip(END)
            return alike(one, other, metric)

        own, other, teacher = [], [], []
        for r in TWO:
            for start, said in r["forks"].items():
                chunk, there = r["text"][start : start + 3], r["forks"][3 - start]
                own.append(np.mean([like(chunk, text) for text in said]))
                other.append(np.mean([like(chunk, text) for text in there]))
                teacher.append(like(*said))
        expected = {
            "own": np.mean(own),
            "floor/other-fork": np.mean(other),
            "contrast/other-fork": np.mean(own) - np.mean(other),
            "ceiling/teacher": np.mean(teacher),
        }
        for quantity, value in expected.items():
            row = found(rows, quantity, metric, tokens)
            assert row["value"] == pytest.approx(value), (metric, tokens, quantity)
            assert row["n"] == 8
            assert row["low"] <= row["value"] <= row["high"]
        flat_own = [like(r["text"][s : s + 3], t) for r in TWO for s, said in r["forks"].items()
                    for t in said]  # fmt: skip
        flat_other = [like(r["text"][s : s + 3], t) for r in TWO for s in r["forks"]
                      for t in r["forks"][3 - s]]  # fmt: skip
        u = mannwhitneyu(flat_own, flat_other).statistic / len(flat_own) / len(flat_other)
        assert found(rows, "auroc/other-fork", metric, tokens)["value"] == pytest.approx(u)


def test_states_are_prompts_with_equal_beginnings(tmp_path):
    rows = calibrated(tmp_path, TWO, 3, 2, metrics=["prefix"])
    # r0 and r1 begin alike: chunks abc and abx share 2 of 3; their second forks do not
    ceiling = found(rows, "ceiling/student", "prefix")
    assert (ceiling["value"], ceiling["n"]) == (pytest.approx(2 / 3), 2)
    # one state: k_sem/N of abc with abc, abx is (1 + 2/3)/2, and so is that of abx
    within = found(rows, "contrast/within-state", "prefix")
    assert (within["value"], within["n"]) == (pytest.approx(0), 1)
    other = [
        response("p", "abc", {0: ["abc", "abc"]}),
        response("p", "xyz", {0: ["abc", "abc"]}),
        response("p", "abc", {0: ["abc", "abc"]}),
        response("p", "abz$", {}),  # has no fork, and was written in the same state
    ]
    rows = calibrated(tmp_path, other, 3, 2, metrics=["prefix"])
    within = found(rows, "contrast/within-state", "prefix")
    apart = [abs(a - b) for a, b in itertools.combinations([1, 0, 2 / 3], 2)]
    assert (within["value"], within["n"]) == (pytest.approx(np.mean(apart)), 1)
    assert within["low"] is None  # one problem


def test_noise_alone_holds_the_difference_within_a_state_above_zero_and_the_legend_says_so(
    tmp_path,
):
    draw = np.random.default_rng(0)
    made = [
        response(f"p{i}", chunk, {0: [str(t) for t in draw.choice(["abc", "abx"], 4)]})
        for i in range(30)
        for chunk in ("abc", "abx")  # the teacher writes either as often
    ]
    within = found(calibrated(tmp_path, made, 3, 4), "contrast/within-state")
    assert within["low"] > 0.1
    assert "above 0 even without a contrast" in summary.LEGEND


def test_where_no_state_is_shared_there_is_no_ceiling_and_the_note_says_so(tmp_path):
    rows = calibrated(tmp_path, varied(lambda chunk, _: chunk), 3, 4)
    for quantity in ("ceiling/student", "contrast/within-state"):
        row = found(rows, quantity)
        assert (row["value"], row["n"]) == (None, 0)
        assert "state" in row["note"]


def test_other_problems_are_other_prompts(tmp_path):
    made = [response("p", "abc", {0: ["abc", "xbc"]}), response("q", "xbc", {0: ["abq", "qbc"]})]
    rows = calibrated(tmp_path, made, 3, 2, metrics=["prefix"])
    # p's abc with abq (2/3), qbc (0); q's xbc with abc (0), xbc (1)
    assert found(rows, "floor/other-problem", "prefix")["value"] == pytest.approx((1 / 3 + 0.5) / 2)
    rows = calibrated(tmp_path, [made[0], made[1] | {"problem": "p"}], 3, 2)
    assert found(rows, "floor/other-problem")["note"] == "one problem"


def test_responses_with_one_fork_are_left_out_of_the_floor_and_counted(tmp_path):
    made = [*TWO, response("u", "abc", {0: ["abc", "abc"]})]
    rows = calibrated(tmp_path, made, 3, 2)
    assert found(rows, "own")["n"] == 9
    assert found(rows, "floor/other-fork")["n"] == 8
    alone = found(rows, "forks/alone", None)
    assert (alone["value"], alone["n"]) == (0.2, 5)
    only = [response(p, "abc", {0: ["abc", "abc"]}) for p in "uvw"]
    rows = calibrated(tmp_path, only, 3, 2)
    for kind in ("floor", "contrast", "auroc"):
        row = found(rows, f"{kind}/other-fork")
        assert (row["value"], row["n"], row["note"]) == (None, 0, "no response has two forks")
    assert not [r for r in rows if r["quantity"] == "warning"]


def test_one_continuation_has_no_reliability_and_no_teacher_ceiling(tmp_path):
    rows = calibrated(tmp_path, varied(lambda chunk, _: chunk, samples=1), 3, 1)
    for quantity in ("reliability", "ceiling/teacher"):
        row = found(rows, quantity)
        assert (row["value"], row["note"]) == (None, "one continuation a fork")
    assert found(rows, "contrast/other-fork")["value"] == 1


def test_reliability_of_scores_that_do_not_vary_is_not_told(tmp_path):
    row = found(calibrated(tmp_path, varied(lambda chunk, _: chunk), 3, 4), "reliability")
    assert row["value"] is None
    assert row["note"] == "k_sem does not vary between forks"


@pytest.mark.parametrize("samples", [2, 5, 8])
def test_reliability_is_the_corrected_correlation_of_halves(tmp_path, samples):
    def sometimes(chunk, draw):  # a fork's own habit: agreement differs between forks
        return chunk if draw.random() < (ord(chunk[0]) - ord("a")) / 16 else "zzz"

    made = varied(sometimes, problems=100, samples=samples)
    rows = calibrated(tmp_path, made, 3, samples)
    agree = np.array(
        [
            [float(text == r["text"][start : start + 3]) for text in said]
            for r in made
            for start, said in sorted(r["forks"].items())
        ]
    )
    half, values = samples // 2, []
    for split in range(20):
        order = seeds.generator(0, "calibrate", 1, "halves", split).permutation(samples)
        one, two = agree[:, order[:half]].sum(1), agree[:, order[half : 2 * half]].sum(1)
        r = np.corrcoef(one, two)[0, 1]
        longer = samples / half
        values.append(longer * r / (1 + (longer - 1) * r) if r > 0 else r)
    row = found(rows, "reliability")
    assert row["value"] == pytest.approx(np.mean(values))
    assert 0 < row["low"] < row["value"] < row["high"] <= 1


def test_variances_and_the_answers_that_are_enough_are_hand_computed(tmp_path):
    """Four answers a fork, of which 4, 3, 1 and 0 are the student's chunk."""
    said = {4: ["abc"] * 4, 3: ["abc"] * 3 + ["xyz"], 1: ["abc"] + ["xyz"] * 3, 0: ["xyz"] * 4}
    rows = [response(f"p{n}", "abcdef", {0: texts}) for n, texts in said.items()]
    found_rows = calibrated(tmp_path, rows, 3, 4)
    within = (0 + 0.25 + 0.25 + 0) / 4  # each variance with N - 1
    share = np.array([1, 0.75, 0.25, 0])
    between = share.var(ddof=1) - within / 4
    assert found(found_rows, "variance/within")["value"] == pytest.approx(within)
    assert found(found_rows, "variance/between")["value"] == pytest.approx(between)
    enough = found(found_rows, "recommended")
    assert enough["value"] == math.ceil(4 * within / between) == 3
    assert between / (between + within / 3) >= 0.8 > between / (between + within / 2)
    assert "N = 3 is enough for a reliability of 0.8, and 4 were looked at" in enough["note"]


def test_forks_that_differ_by_noise_alone_recommend_nothing(tmp_path):
    rows = [response(f"p{n}", "abcdef", {0: ["abc", "xyz"]}) for n in range(3)]
    rows = calibrated(tmp_path, rows, 3, 2)
    assert found(rows, "variance/between")["value"] == 0
    assert found(rows, "recommended")["value"] is None
    (tmp_path / "sure").mkdir()
    sure = [response(f"p{n}", "abcdef", {0: [text] * 2}) for n, text in enumerate(("abc", "xyz"))]
    assert found(calibrated(tmp_path / "sure", sure, 3, 2), "recommended")["value"] == 1


def test_shrinkage_and_posterior_are_hand_computed(tmp_path):
    rows = calibrated(tmp_path, TWO, 3, 2, alphas=[0.0, 2.0])
    bars = [math.exp(r["logp"]) for r in TWO for _ in r["forks"]]
    shares = [np.mean([text == r["text"][s : s + 3] for text in said]) for r in TWO
              for s, said in r["forks"].items()]  # fmt: skip
    for alpha in (0.0, 2.0):
        own = {r["quantity"]: r["value"] for r in rows if r["bin"] == alpha}
        hats = [(2 * k + alpha * bar) / (2 + alpha) for k, bar in zip(shares, bars, strict=True)]
        sds = [math.sqrt(h * (1 - h) / (3 + alpha)) for h in hats]
        move = [abs(h - k) for h, k in zip(hats, shares, strict=True)]
        assert own["shrinkage"] == alpha / (2 + alpha)
        assert own["posterior-sd"] == pytest.approx(np.mean(sds))
        assert own["move"] == pytest.approx(np.mean(move))


def test_profiles_hold_every_fork_once(tmp_path):
    rows = calibrated(tmp_path, TWO, 3, 2)
    position = [r for r in rows if r["quantity"] == "profile/position"]
    assert [(r["bin"], r["n"]) for r in position] == [(0.0, 4), (0.5, 4)]
    assert [r["value"] for r in position] == pytest.approx([5 / 8, 2 / 8])
    entropy = [r for r in rows if r["quantity"] == "profile/entropy"]
    assert sum(r["n"] for r in entropy) == 8
    assert [r["bin"] for r in entropy] == pytest.approx([0.0, 0.03])  # two values, two bins


def test_correctness_is_the_auroc_of_the_responses_mean(tmp_path):
    rows = calibrated(tmp_path, TWO, 3, 2)
    # means of k_sem/N: r0 (1/2 + 1/2)/2, r1 (1/2 + 0)/2, r2 (1/2 + 0)/2, r3 (1 + 1/2)/2
    right, wrong = [0.5, 0.75], [0.25, 0.25]
    u = mannwhitneyu(right, wrong).statistic / 4
    assert found(rows, "correct/response")["value"] == u == 1
    forks = [0.5, 0.5, 1, 0.5], [0.5, 0, 0.5, 0]
    expected = mannwhitneyu(*forks).statistic / 16
    assert found(rows, "correct/fork")["value"] == pytest.approx(expected)
    within = found(rows, "correct/within-prompt")
    assert (within["value"], within["n"]) == (1, 1)  # r0 against r1


def test_without_a_reward_or_with_equal_ones_correctness_is_not_told(tmp_path):
    names = ("correct/response", "correct/fork", "correct/within-prompt")
    for reward, note in ((None, "no reward"), (1.0, "every response is graded alike")):
        rows = calibrated(tmp_path, [r | {"reward": reward} for r in TWO], 3, 2)
        assert {(found(rows, n)["value"], found(rows, n)["note"]) for n in names} == {(None, note)}
    mixed = [r | {"problem": str(i)} for i, r in enumerate(TWO)]
    row = found(calibrated(tmp_path, mixed, 3, 2), "correct/within-prompt")
    assert (row["value"], row["n"]) == (None, 0)
    assert row["note"] == "no prompt has both a correct and a wrong response"


def test_an_end_counts_as_a_token_of_the_cut():
    whole = {
        Text("abcd", False): Text("abc", False),
        Text("ab", True): Text("ab", True),  # a, b and the end
        Text("abc", True): Text("abc", False),  # the end is the fourth
        Text("", True): Text("", True),
    }
    assert {x: pairs.cut(x, [], 3, TOKENIZER) for x in whole} == whole


def test_both_texts_are_stripped_on_the_left(tmp_path):
    made = [response(p, "a  bc", {1: ["bc", " bc"]}) for p in "pq"]
    assert found(calibrated(tmp_path, made, 4, 2), "own")["value"] == 1


def test_a_response_without_forks_is_not_sampled_and_none_at_all_give_no_rows(tmp_path):
    made = [response("p", "ab", {}), response("q", "abcabc", {0: ["abc", "abc"]})]
    assert found(calibrated(tmp_path, made, 3, 2), "own")["n"] == 1
    assert calibrated(tmp_path, made[:1], 3, 2) == []


def test_other_than_n_continuations_is_an_error(tmp_path):
    made = [response("p", "abc", {0: ["abc"]})]
    with pytest.raises(UserError, match=r"fork \('r0', 0\) has 1 continuations, wanted samples 0"):
        calibrated(tmp_path, made, 3, 2)


def test_forks_of_other_rollouts_are_refused(tmp_path):
    rollouts, forks, _ = written(tmp_path, TWO, 3)
    table = tables.read(rollouts, schemas.ROLLOUTS)
    tables.write(table.slice(0, 2), rollouts, schemas.ROLLOUTS)
    with pytest.raises(UserError, match="r2 is not among the rollouts"):
        sample.choose(rollouts, forks, 400, 0)


def many(problems, each=4):
    return [
        response(f"p{p}", "abcdef", {0: ["abc"], 3: ["def"]})
        for p in range(problems)
        for _ in range(each)
    ]


def test_the_sample_is_seeded_in_pairs_and_within_its_limit(tmp_path):
    paths = written(tmp_path, many(50), 3)[:2]
    chosen = sample.choose(*paths, 40, 0, "calibrate", 1)
    assert chosen == sample.choose(*paths, 40, 0, "calibrate", 1)
    assert chosen != sample.choose(*paths, 40, 1, "calibrate", 1)
    assert len(chosen) == 20  # two forks each
    assert len(sample.choose(*paths, 41, 0, "calibrate", 1)) == 20  # one more would be 42
    assert sorted(np.unique(list(chosen.values()), return_counts=True)[1]) == [2] * 10
    # more than a pair of every prompt: every prompt gave its first
    wide = sample.choose(*paths, 250, 0, "calibrate", 1)
    counts = np.unique(list(wide.values()), return_counts=True)[1]
    assert (len(wide), len(counts), sorted(set(counts))) == (125, 50, [2, 3, 4])
    assert len(sample.choose(*paths, 10_000, 0)) == 200
    assert len(sample.choose(*paths, 1, 0)) == 1  # never nothing


def test_the_sample_does_not_depend_on_row_groups_and_its_memory_not_on_length(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "read", None)  # only streams
    peaks, chosen = [], {}
    for problems, group in ((250, 1024), (250, 100), (2500, 1024)):
        monkeypatch.setattr(tables, "ROWS_PER_GROUP", group)
        paths = written(tmp_path, many(problems), 3)[:2]
        tracemalloc.start()
        chosen[problems, group] = sample.choose(*paths, 40, 0, "calibrate", 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert chosen[250, 1024] == chosen[250, 100]
    assert peaks[2] < 1.3 * peaks[0]


def test_responses_are_read_in_the_order_of_the_rollouts(tmp_path):
    paths = written(tmp_path, many(20), 3)
    chosen = sample.choose(*paths[:2], 40, 0)
    names = [r.id for r in sample.read(paths, chosen, 1, TOKENIZER)]
    assert names == sorted(chosen, key=lambda name: int(name[1:]))


def test_intervals_are_over_problems():
    draw = np.random.default_rng(0)
    # 20 problems of 10 equal values each: as uncertain as 20 values, not as 200
    values = draw.normal(size=20)
    problems = Problems([f"p{i}" for i in range(20)])
    together = problems.mean(np.repeat(values, 10), np.repeat(np.arange(20), 10))
    single = problems.mean(values, np.arange(20))
    assert together == pytest.approx(single)
    spread = values.std() / math.sqrt(20)
    assert together.high - together.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert problems.mean(np.ones(20), np.arange(20)) == (1, 1, 1)
    assert Problems(["p"]).mean(np.array([0.5]), np.array([0])) == (0.5, None, None)
    assert problems.mean(np.empty(0), np.empty(0, int)) == (None, None, None)


def test_aurocs_and_correlations_of_resamples_are_those_of_the_rows_drawn():
    draw = np.random.default_rng(1)
    problems = Problems([f"p{i}" for i in range(6)])
    high, low = draw.integers(0, 5, 30).astype(float), draw.integers(0, 4, 20).astype(float)
    here, there = draw.integers(0, 6, 30), draw.integers(0, 6, 20)
    row = problems.auroc(high, here, low, there)
    assert row.value == pytest.approx(mannwhitneyu(high, low).statistic / 600)
    values = []
    for times in problems.times_RP[1:].astype(int):
        one = np.repeat(high, times[here])
        two = np.repeat(low, times[there])
        if len(one) and len(two):
            wins = (np.sign(one[:, None] - two) + 1) / 2
            values.append(wins.mean())
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    a, b = draw.normal(size=(2, 3, 30))
    r_RS = problems.correlations(a, b, here)
    for times, r_S in zip(problems.times_RP[:50].astype(int), r_RS, strict=False):
        again = np.repeat(np.arange(30), times[here])
        expected = [np.corrcoef(x[again], y[again])[0, 1] for x, y in zip(a, b, strict=True)]
        assert r_S == pytest.approx(expected)


def test_marks_coverage_and_other_schedulers_are_counted_by_hand(tmp_path):
    text = "ab, c4;x$"
    made = [response(p, text, {2: ["", ""], 5: ["", ""]}) for p in "pq"]
    rows = calibrated(tmp_path, made, 3, 2)
    # tokens  a b , _ c 4 ; x $ ; chunks ",_c" and "4;x"
    assert found(rows, "forks/starts-on-mark", None)["value"] == 0.5
    assert found(rows, "forks/mark-tokens", None)["value"] == 3 / 6
    assert found(rows, "forks/covered", None)["value"] == 6 / 9
    starts = found(rows, "overlap/starts", None)
    assert starts["note"] == "peak-entropy with uniform"
    # entropy rises along the response: peak-entropy would take 6 and 3
    rows = calibrated(tmp_path, made, 3, 2, scheduler="uniform")
    assert found(rows, "overlap/starts", None)["value"] == 0
    assert found(rows, "overlap/tokens", None)["value"] == 5 / 6
    rows = calibrated(tmp_path, made, 3, 2, scheduler="needs-a-model")
    notes = [r["note"] for r in rows if r["quantity"] == "overlap/starts"]
    assert notes == ["needs-a-model with peak-entropy", "needs-a-model with uniform"]


def test_uniform_overlap_is_with_the_forks_that_the_stage_would_take(tmp_path):
    p = Forks(scheduler="uniform", max_forks=2, chunk_tokens=3)
    paths = written(tmp_path, [response("p", "abcdefghij", {0: ["", ""], 3: ["", ""]})], 3)
    rollouts = tables.read(paths[0], schemas.ROLLOUTS)
    taken = method_forks.forks(rollouts, TOKENIZER, p, 0, 1)
    (read,) = sample.read(paths, {"r0": "p"}, 2, TOKENIZER)
    found = placement._positions("uniform", read, TOKENIZER, 3, 2, 0, 1)
    assert found == taken["position"].to_pylist()


def test_every_metric_is_one_call_and_embeds_each_text_once(tmp_path, monkeypatch):
    from pipeline.method.similarity import embedding

    calls = []

    def fake(asked):
        calls.append(len(asked))
        return [float(p.text == p.other) for p in asked]

    monkeypatch.setattr(embedding, "measure", fake)
    rows = calibrated(tmp_path, TWO, 3, 2, metrics=["embedding", "exact"], lengths=[1, 2, 3])
    assert len(calls) == 1
    assert found(rows, "own", "embedding", 1)["value"] is not None


def settings(metric="exact", source="similarity"):
    return {
        "score": {"metric": metric, "source": source},
        "forks": {"chunk_tokens": 3},
        "teach": {"teacher": "t"},
    }


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Two arms that share a cell, and one with a flat contrast and two teachers."""
    monkeypatch.setattr("pipeline.stage.run_records.DATA", tmp_path)
    flat = varied(lambda _, draw: words(draw, 3))
    for key, made in (("good", varied(lambda chunk, _: chunk)), ("flat", flat)):
        (tmp_path / "calibrate" / key).mkdir(parents=True)
        calibrated(tmp_path / "calibrate" / key, made, 3, 4)
    arms = {
        "base": {"seed-0": {"round-0": {"policy": "data/x/y"}}},
        "omniopd": {"seed-0": {"round-1": {"calibrate": "good"}}},
        "shuffled-scores": {"seed-0": {"round-1": {"calibrate": "good"}}},
        "several": {"seed-0": {"round-1": {"calibrate-a": "good", "calibrate-b": "flat"}}},
    }
    known = {"omniopd": settings(), "shuffled-scores": settings(source="shuffled")}
    known["several"] = settings()
    return summary.gather(arms, known), known


def test_json_has_each_row_with_arm_seed_round_and_teacher(reported, tmp_path):
    found, _ = reported
    rows = json.loads(summary.dumped(summary.rows(found)))
    good = tables.read(tmp_path / "calibrate/good/calibration.parquet", schemas.CALIBRATION)
    own = [r for r in rows if r["arm"] == "omniopd"]
    names = {"arm": "omniopd", "seed": 0, "round": 1, "teacher": "t"}
    assert own == [names | row for row in good.to_pylist()]
    teachers = {(r["arm"], r["teacher"]) for r in rows if r["arm"] == "several"}
    assert ("several", "b") in teachers
    assert json.loads(summary.dumped([])) == []


def test_the_report_shows_contrasts_tables_and_warnings(reported, tmp_path):
    found, known = reported
    line = summary.line(found, known)
    assert "omniopd (exact, 3 tokens, t, round 1) +1.000 [+1.000, +1.000]" in line
    assert "shuffled-scores (exact, 3 tokens, t, round 1, before shuffling) +1.000" in line
    assert " FLAT" in line
    assert summary.line([], known) == summary.section([]) == ""
    text = summary.section(found)
    assert "- **Warning**, several, teacher b, seed 0, round 1: exact at 3 tokens is flat" in text
    assert text.count("| exact ") == 2
    calibration_picture.contrasts(summary.shown(found), tmp_path / "calibration.png")
    calibration_picture.contrasts([], tmp_path / "empty.png")
    assert (tmp_path / "calibration.png").read_bytes()[1:4] == b"PNG"
