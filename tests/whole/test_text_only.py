"""The tables of arms that use a teacher's text otherwise, of the miniature, by short scripts."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.training.optimizer_steps import order

ARM, ARM_OF_THREE = "state-value", "omniopd"
LONGEST = 20  # rollout.max_new_tokens of the miniature


def table(full, arm, stage, name):
    return pd.read_parquet(full.cell(arm, 1, stage) / f"{name}.parquet")


def answers_of(full):
    """The right answer of each prompt."""
    (prepare,) = (full.folder / "data/prepare").iterdir()
    return pd.read_parquet(prepare / "prompts.parquet").set_index("prompt_id").answer


def right(text, answer):
    return float(text.rpartition("#")[2] == answer and "#" in text)


def test_an_outcome_is_whether_prefix_and_continuation_end_right(full):
    forks, answers = table(full, ARM, "forks", "forks"), table(full, ARM, "teach", "answers")
    scores = table(full, ARM, "score", "scores")
    prompt_of = table(full, ARM, "rollout", "rollouts").set_index("rollout_id").prompt_id
    truth = answers_of(full)
    merged = forks.merge(answers, on=["rollout_id", "position"], suffixes=("", "_teacher"))
    whole = merged.prefix_text + merged.text
    expected = [
        right(text, truth[prompt_of[name]])
        for name, text in zip(merged.rollout_id, whole, strict=True)
    ]
    assert list(scores.similarity) == expected
    assert 0 < sum(expected) < len(expected)
    # they run to the end, or to the length of a response, and not for a chunk
    cut = merged[~merged.ended_teacher]
    assert set(cut.token_ids.map(len)) <= {LONGEST}
    assert merged.ended_teacher.mean() > 0.5
    assert set(scores.metric) == {"outcome"}
    targets = table(full, ARM, "prior", "targets")
    shares = scores.groupby(["rollout_id", "position"], sort=False).similarity.sum()
    assert list(targets.k_sem) == list(shares)


def test_what_state_value_trains_on_is_the_change_of_the_share(full):
    """The signal of a first step, whose ratio is 1, by the tables alone."""
    rollouts = table(full, ARM, "rollout", "rollouts")
    targets = table(full, ARM, "prior", "targets")
    values = {n: g.assign(v=g.k_sem / g.n) for n, g in targets.groupby("rollout_id")}
    worth = {
        row.rollout_id: values[row.rollout_id].v.iloc[0] if row.rollout_id in values else row.reward
        for row in rollouts.itertuples()
    }
    signals = []
    for row in rollouts.itertuples():
        others = rollouts[
            (rollouts.prompt_id == row.prompt_id) & (rollouts.rollout_id != row.rollout_id)
        ]
        before = float(np.mean([worth[name] for name in others.rollout_id]))
        own = values.get(row.rollout_id)
        starts = [0, *([] if own is None else own.position), len(row.token_ids)]
        states = [before, *([] if own is None else own.v), row.reward]
        credit = sum(
            (b - a) * float(np.sum(row.logprobs[i:j]))
            for a, b, i, j in zip(states, states[1:], starts, starts[1:], strict=False)
        )
        signals.append(-credit)
    lines = (full.cell(ARM, 1, "train") / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 2
    batch = next(order(32, 16, 1, 0, "train", 1))
    expected = sum(signals[i] for i in batch) / 16
    assert first["train/signal"] == pytest.approx(expected, rel=1e-4)
    assert expected


def test_prompts_that_the_teacher_fails_have_no_forks_and_the_others_theirs(full):
    own = full.plan()["cells"]["arms"]["prompt-gate"]["seed-0"]["round-1"]
    data = full.folder / "data"
    scores = pd.read_parquet(data / "score" / own["score-gate"] / "scores.parquet")
    solved = pd.read_parquet(data / "teach" / own["teach-gate"] / "answers.parquet")
    truth = answers_of(full)
    expected = [right(row.text, truth[row.rollout_id]) for row in solved.itertuples()]
    assert list(scores.similarity) == expected
    assert list(solved["sample"]) == [0, 1] * 8
    closed = {n for n, g in scores.groupby("rollout_id") if g.similarity.mean() < 1}
    assert 0 < len(closed) < 8  # of this teacher: `careful` in miniature fails some
    run = json.loads((full.cell("prompt-gate", 1, "forks") / "run.json").read_text())
    assert run["gated_prompts"] == len(closed)
    plain, gated = (table(full, arm, "forks", "forks") for arm in ("omniopd", "prompt-gate"))
    prompt_of = table(full, "omniopd", "rollout", "rollouts").set_index("rollout_id").prompt_id
    kept = plain[[prompt_of[name] not in closed for name in plain.rollout_id]]
    assert gated.equals(kept.reset_index(drop=True))
    assert 0 < len(gated) < len(plain)


def test_confident_forks_are_in_turn_where_the_student_was_unsure_and_sure(full):
    rollouts = table(full, "omniopd", "rollout", "rollouts").set_index("rollout_id").entropies
    plain, mixed = (table(full, arm, "forks", "forks") for arm in ("omniopd", "confident-mistakes"))
    changed = 0
    for name, own in mixed.groupby("rollout_id"):
        peaks, median = set(plain[plain.rollout_id == name].position), np.median(rollouts[name])
        highest = max(range(len(rollouts[name]) - 5), key=lambda t: (rollouts[name][t], t))
        assert highest in set(own.position)
        sure = [p for p in own.position if rollouts[name][p] <= median]
        assert len(sure) >= len(own) // 2 or len(own) == len(peaks)
        assert all(np.diff(sorted(own.position)) >= 6)
        changed += set(own.position) != peaks
    assert changed


def test_pairs_of_soda_are_of_the_untrained_students_responses(full):
    assert full.cell("soda", 1, "rollout") == full.cell("omniopd", 1, "rollout")
    run = json.loads((full.cell("soda", 1, "train") / "run.json").read_text())
    lines = (full.cell("soda", 1, "train") / "metrics.jsonl").read_text().splitlines()
    # at the reference every margin is 0
    assert json.loads(lines[0])["train/signal"] == pytest.approx(np.log(2), abs=1e-6)
    assert 0 < run["rows_in"] + run["left_out"] <= 32  # but for pairs of equal tokens


def test_a_fork_gets_answers_until_they_agree_or_there_are_most_of_them(full):
    """The answers are those of omniopd as far as it has them, so they were bought once."""
    found, plain = (table(full, arm, "teach", "answers") for arm in ("adaptive", ARM_OF_THREE))
    place, said = ["rollout_id", "position"], ["text", "ended"]
    counts = set()
    for key, own in found.groupby(place):
        texts = [(text.lstrip(), ended) for text, ended in own[said].itertuples(index=False)]
        assert list(own["sample"]) == list(range(len(texts)))
        assert len(texts) == (2 if texts[0] == texts[1] else 4)  # agree 1: all or none
        counts.add(len(texts))
        other = plain[(plain.rollout_id == key[0]) & (plain.position == key[1])]
        assert list(own.text)[: len(other)] == list(other.text)[: len(own)]
        # and of the same rows of the store
        assert list(own.request_key)[: len(other)] == list(other.request_key)[: len(own)]
    assert counts == {2, 4}
    run = json.loads((full.cell("adaptive", 1, "teach") / "run.json").read_text())
    assert run["answers"] == len(found)
    once = found.drop_duplicates("request_key")  # equal prefixes share answers
    assert run["tokens_alone"] == once.completion_tokens.sum()
    scores, targets = (
        table(full, "adaptive", stage, name)
        for stage, name in (("score", "scores"), ("prior", "targets"))
    )
    by_fork = scores.groupby(place, sort=False).similarity
    assert list(targets.n) == list(by_fork.size()) == list(found.groupby(place, sort=False).size())
    assert list(targets.k_sem) == pytest.approx(list(by_fork.sum()))
    expected = (targets.k_sem + targets.pi_bar) / (targets.n + 1)
    assert list(targets.pi_hat) == pytest.approx(list(expected))
    assert targets.weight.between(0, 1).all()


def test_shuffled_scores_of_different_numbers_stay_together(full):
    real, moved = (table(full, arm, "score", "scores") for arm in ("adaptive", "adaptive-shuffled"))
    place = ["rollout_id", "position"]
    blocks = [
        sorted(tuple(own.similarity) for _, own in scores.groupby(place))
        for scores in (real, moved)
    ]
    assert blocks[0] == blocks[1]
    assert list(real.similarity) != list(moved.similarity)
    targets = table(full, "adaptive-shuffled", "prior", "targets")
    assert list(targets.n) == list(moved.groupby(place, sort=False).size())


def test_a_repaired_response_is_the_students_then_the_teachers_then_the_students(full):
    """Behind the teacher's stretch the student goes on by numbers of its own, as it is."""
    own = full.plan()["cells"]["arms"]["repair"]["seed-0"]["round-1"]
    data = full.folder / "data/rollout"
    plain, fixed = (
        pd.read_parquet(data / own[stage] / "rollouts.parquet").set_index("rollout_id")
        for stage in ("rollout", "rollout-repair")
    )
    forks, answers = (
        table(full, "repair", "forks", "forks"),
        table(full, "repair", "teach", "answers"),
    )
    place = ["rollout_id", "position"]
    merged = forks.merge(answers, on=place, suffixes=("", "_teacher")).sort_values(place)
    apart = merged[(merged.chunk_text != merged.text) | (merged.ended != merged.ended_teacher)]
    first = apart.drop_duplicates("rollout_id").set_index("rollout_id")
    assert list(fixed.index) == list(plain.index)
    went_on = 0
    for name, row in fixed.iterrows():
        if name not in first.index:
            assert list(row.token_ids) == list(plain.token_ids[name])
            continue
        stretch = first.loc[name]
        head = [*plain.token_ids[name][: stretch.position], *stretch.token_ids]
        assert list(row.token_ids[: len(head)]) == head
        if stretch.ended_teacher:
            assert list(row.token_ids[len(head) :]) == [1]
        went_on += len(row.token_ids) > len(head) + 1
        assert len(row.token_ids) <= 20
    assert 0 < len(first) < len(fixed)
    assert went_on
    truth = answers_of(full)
    graded = [right(row.text, truth[row.prompt_id]) for row in fixed.itertuples()]
    assert list(fixed.reward) == graded
    run = json.loads((data / own["rollout-repair"] / "run.json").read_text())
    assert run["repaired"] == len(first)
    lines = (full.cell("repair", 1, "train") / "metrics.jsonl").read_text().splitlines()
    batch = next(order(32, 16, 1, 0, "train", 1))
    expected = -sum(float(np.sum(fixed.logprobs.iloc[i])) for i in batch) / 16
    assert json.loads(lines[0])["train/signal"] == pytest.approx(expected, rel=1e-4)
