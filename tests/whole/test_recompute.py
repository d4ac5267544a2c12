"""Every table of the miniature again, by short scripts that share no code with the stages."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.core.errors import UserError
from pipeline.method.objectives import omniopd
from tests import naive

ARM = "omniopd"


def table(full, arm, stage, name):
    return pd.read_parquet(full.cell(arm, 1, stage) / f"{name}.parquet")


def tokenizer(full):
    path = full.cell("base", 0, "policy") / "checkpoint/tokenizer.json"
    return Tokenizer.from_file(str(path))


def naive_forks(row, decode, most, chunk):
    text, taken = decode(row.token_ids), []
    ranked = sorted(range(len(row.entropies)), key=lambda t: (-row.entropies[t], -t))
    for t in ranked:
        fits = t + chunk <= len(row.token_ids)
        apart = all(abs(t - other) >= chunk for other in taken)
        if fits and apart and len(taken) < most and text.startswith(decode(row.token_ids[:t])):
            taken.append(t)
    return sorted(taken)


def test_forks(full):
    rollouts, forks = table(full, ARM, "rollout", "rollouts"), table(full, ARM, "forks", "forks")
    tok = tokenizer(full)

    def decode(ids):
        return tok.decode(list(ids), skip_special_tokens=True)

    expected = []
    for row in rollouts.itertuples():
        for fork, t in enumerate(naive_forks(row, decode, 3, 6)):
            before, after = decode(row.token_ids[:t]), decode(row.token_ids[: t + 6])
            ended = t + 6 == len(row.token_ids) and row.finish_reason == "stop"
            expected.append((row.rollout_id, fork, t, 6, before, after[len(before) :], ended))
    found = forks.drop(columns="entropy").itertuples(index=False)
    assert [tuple(row) for row in found] == expected
    entropy = rollouts.set_index("rollout_id").entropies
    places = zip(forks.rollout_id, forks.position, strict=True)
    assert [entropy[r][p] for r, p in places] == list(forks.entropy)
    assert forks.ended.any()  # a chunk with the end in it


def test_embedding_variance_takes_the_place_where_the_student_says_most_different_things(full):
    from pipeline.core import seeds
    from pipeline.method.similarity.embedding import embed

    rollouts = table(full, "self-teacher", "rollout", "rollouts")
    forks = table(full, "self-teacher", "forks", "forks").set_index("rollout_id").position
    folder = full.cell("base", 0, "policy") / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    moved = 0
    for row in rollouts.itertuples():
        places = naive_forks(row, lambda ids: tok.decode(ids, skip_special_tokens=True), 3, 6)
        apart = {}
        for t in places:
            prefix = [*map(int, row.prompt_token_ids), *map(int, row.token_ids[:t])]
            texts = []
            for sample in range(4):
                seed = seeds.number(0, "forks", 1, row.rollout_id, t, sample)
                draws = np.random.default_rng(seed).random(6)
                texts.append(tok.decode(drawn(model, tok, prefix, draws), skip_special_tokens=True))
            vectors = embed(texts)
            pairs = [vectors[i] @ vectors[j] for i in range(4) for j in range(i)]
            apart[t] = round(1 - float(np.mean(pairs)), 4)
        best = max(apart, key=lambda t: (apart[t], t), default=None)
        assert forks.get(row.rollout_id) == best
        moved += naive_forks(row, lambda ids: "", 1, 6) != [best]
    assert moved  # it is not peak-entropy's choice


def test_forks_of_short_responses_with_ties():
    from pipeline.method.schedulers import Response, peak_entropy

    draw, sizes = np.random.default_rng(0), set()
    for length in list(range(1, 30)) * 5:
        entropies = np.round(draw.random(length), 1).astype(np.float32)  # ties on purpose
        row = SimpleNamespace(token_ids=list(range(length)), entropies=entropies)
        expected = naive_forks(row, lambda ids: "x" * len(ids), 3, 4)
        found = peak_entropy.positions(Response(entropies, 3, 4, lambda _: True, draw))
        assert found == expected
        sizes.add(len(found))
    assert sizes == {0, 1, 2, 3}


def test_rollouts_are_whole_and_their_log_probabilities_exact(full):
    rollouts = table(full, ARM, "rollout", "rollouts")
    folder = full.cell("base", 0, "policy") / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    tok = AutoTokenizer.from_pretrained(folder)
    assert list(rollouts["sample"]) == [0, 1, 2, 3] * 8
    for row in rollouts.itertuples():
        ids = list(row.token_ids)
        assert (ids[-1] == tok.eos_token_id) == (row.finish_reason == "stop")
        assert tok.eos_token_id not in ids[:-1]
        assert row.text == tok.decode(ids, skip_special_tokens=True)
        with torch.no_grad():
            logp = naive.logps(model, list(row.prompt_token_ids), ids, len(tok))
        own = logp[torch.arange(len(ids)), torch.tensor(ids)]
        assert row.logprobs == pytest.approx(own.numpy(), abs=1e-5)
        assert row.entropies == pytest.approx(-(logp.exp() * logp).sum(-1).numpy(), abs=1e-5)


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def edit(a, b):
    a, b = a.lstrip(), b.lstrip()
    longest = max(len(a), len(b))
    return 1.0 if not longest else 1 - levenshtein(a, b) / longest


def test_scores(full):
    forks, answers = table(full, ARM, "forks", "forks"), table(full, ARM, "teach", "answers")
    scores = table(full, ARM, "score", "scores")
    merged = forks.merge(answers, on=["rollout_id", "position"], suffixes=("", "_teacher"))
    assert len(merged) == len(forks) * 3 == len(scores)
    expected = [edit(a, b) for a, b in zip(merged.chunk_text, merged.text, strict=True)]
    assert scores.similarity.to_numpy() == pytest.approx(expected, abs=1e-9)
    assert list(scores["sample"]) == list(merged["sample"])
    assert list(scores.rollout_id) == list(merged.rollout_id)
    by_ids = table(full, "agreement", "score", "scores")  # metric token-edit: an id is a character
    assert list(by_ids.similarity) == list(scores.similarity)


@pytest.mark.parametrize(
    ("arm", "alpha"), [("omniopd", 1.0), ("shuffled-scores", 1.0), ("zero-score", 1.0)]
)
def test_targets(full, arm, alpha):
    rollouts = table(full, arm, "rollout", "rollouts").set_index("rollout_id")
    scores, targets = table(full, arm, "score", "scores"), table(full, arm, "prior", "targets")
    k = scores.groupby(["rollout_id", "position"]).similarity.sum()
    for row in targets.itertuples():
        chunk = rollouts.logprobs[row.rollout_id][row.position : row.position + row.length]
        bar = math.exp(float(np.mean(chunk.astype(float))))
        own = k[row.rollout_id, row.position]
        a, b = own + alpha * bar, 3 - own + alpha * (1 - bar)
        assert row.n == 3
        assert row.k_sem == pytest.approx(own, abs=1e-9)
        assert row.pi_bar == pytest.approx(bar, abs=1e-9)
        assert row.pi_hat == pytest.approx(a / (a + b), abs=1e-9)
        sd = math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
        assert row.posterior_sd == pytest.approx(sd, abs=1e-9)
        assert row.weight == row.pi_hat


def test_the_excess_is_what_stands_above_the_mean_of_the_round(full):
    """Of shuffled weights too: they are the same, on other forks."""
    real = table(full, ARM, "prior", "targets")
    excess, shuffled = (table(full, arm, "prior", "targets") for arm in ("excess", "permuted"))
    share = real.k_sem.to_numpy() / 3
    expected = [max(0.0, q - share.mean()) / (1 - share.mean()) for q in share]
    assert excess.weight.to_numpy() == pytest.approx(expected, abs=1e-12)
    assert 0 < (excess.weight == 0).sum() < len(excess)
    for name in ("k_sem", "pi_hat", "posterior_sd"):
        assert list(excess[name]) == list(shuffled[name]) == list(real[name])
    assert sorted(shuffled.weight) == sorted(excess.weight)
    assert list(shuffled.weight) != list(excess.weight)


def test_controls_keep_what_they_must(full):
    real = table(full, "omniopd", "prior", "targets")
    shuffled = table(full, "shuffled-scores", "score", "scores").similarity.to_numpy()
    scores = table(full, "omniopd", "score", "scores").similarity.to_numpy()
    blocks = sorted(map(tuple, scores.reshape(-1, 3)))
    assert sorted(map(tuple, shuffled.reshape(-1, 3))) == blocks
    assert not np.array_equal(shuffled, scores)
    zero = table(full, "zero-score", "prior", "targets")
    assert (zero.k_sem == 0).all()
    assert (zero.n == 3).all()
    only = table(full, "prior-only", "prior", "targets")
    assert (only.n == 0).all()
    assert only.pi_hat.to_numpy() == pytest.approx(only.pi_bar.to_numpy())
    constant = table(full, "constant-scores", "prior", "targets")
    assert list(constant.weight) == list(constant.pi_hat)
    assert constant.pi_hat.to_numpy() == pytest.approx([real.pi_hat.mean()] * len(constant))
    random = table(full, "random-scores", "prior", "targets")
    assert set(random.k_sem) <= set(real.k_sem)
    assert list(random.k_sem) != list(real.k_sem)
    assert random.pi_bar.to_numpy() == pytest.approx(real.pi_bar.to_numpy())


def test_chunk_logprob_is_the_teachers_own_geometric_mean(full):
    rollouts = table(full, "chunk-logprob", "rollout", "rollouts").set_index("rollout_id")
    targets = table(full, "chunk-logprob", "prior", "targets")
    cells = full.plan()["cells"]["prior-teacher"]
    ((_, cell),) = cells.items()
    folder = full.folder / cell["teacher"] / "checkpoint"
    teacher = AutoModelForCausalLM.from_pretrained(folder).double()
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    assert len(targets) > 20
    for row in targets.head(20).itertuples():
        own = rollouts.loc[row.rollout_id]
        ids = list(own.token_ids)
        with torch.no_grad():
            logp_TV = naive.logps(teacher, list(own.prompt_token_ids), ids, vocabulary)
        chunk = range(row.position, row.position + row.length)
        expected = math.exp(sum(float(logp_TV[t, ids[t]]) for t in chunk) / row.length)
        assert row.pi_hat == pytest.approx(expected, rel=1e-4)
        assert (row.n, row.k_sem, row.posterior_sd) == (0, 0, 0)


def in_the_same_state(rollouts, fork, tokens):
    """Chunks that the prompt's other samples wrote after the same tokens."""
    mine, at = rollouts.loc[fork.rollout_id], fork.position
    for name, other in rollouts[rollouts.prompt_id == mine.prompt_id].iterrows():
        ids = list(other.token_ids)
        whole = len(ids) >= at + 6 or (len(ids) > at and other.finish_reason == "stop")
        if name != fork.rollout_id and whole and ids[:at] == list(mine.token_ids[:at]):
            yield other.text[at : at + tokens]


@pytest.mark.parametrize("tokens", [3, 6])
def test_calibration_at_two_lengths(full, tokens):
    forks, answers = table(full, ARM, "forks", "forks"), table(full, ARM, "teach", "answers")
    rollouts = table(full, ARM, "rollout", "rollouts").set_index("rollout_id")
    said = answers.groupby(["rollout_id", "position"]).text.apply(list)
    own, teacher, student = [], [], []
    for fork in forks.itertuples():
        chunk = fork.chunk_text[:tokens]  # a token is a character
        texts = [text[:tokens] for text in said[fork.rollout_id, fork.position]]
        own.append(np.mean([edit(chunk, text) for text in texts]))
        teacher.append(np.mean([edit(texts[i], texts[i - 1]) for i in range(3)]))
        others = [edit(chunk, text) for text in in_the_same_state(rollouts, fork, tokens)]
        student += [np.mean(others)] if others else []
    mean = pd.Series(own).groupby(forks.rollout_id).mean()
    reward = rollouts.reward[mean.index]
    pairs = [(a, b) for a in mean[reward == 1] for b in mean[reward == 0]]
    expected = {
        "own": (np.mean(own), len(forks)),
        "ceiling/teacher": (np.mean(teacher), len(forks)),
        "ceiling/student": (np.mean(student), len(student)),
        "correct/response": (np.mean([(a > b) + (a == b) / 2 for a, b in pairs]), len(mean)),
    }
    rows = table(full, ARM, "calibrate", "calibration")
    rows = rows[(rows.metric == "edit") & (rows.chunk_tokens == tokens) & rows.bin.isna()]
    rows = rows.set_index("quantity")
    for quantity, (value, n) in expected.items():
        assert rows.value[quantity] == pytest.approx(value, abs=1e-9), quantity
        assert rows.n[quantity] == n
    assert len(student) > 20
    if tokens == 6:
        scores = table(full, ARM, "score", "scores").similarity
        assert rows.value["own"] == pytest.approx(scores.mean())


def test_calibrations_in_the_report_are_those_of_the_arms_that_have_answers(full):
    rows = json.loads((full.folder / "data/report/calibration.json").read_text())
    arms = {(r["arm"], r["teacher"]) for r in rows}
    assert {("omniopd", "carries"), ("wrong-teacher", "never-carries")} <= arms
    assert {t for a, t in arms if a == "multi-teacher"} == {"carries", "never-carries"}
    assert not {"zero-score", "prior-only", "sft", "opd"} & {arm for arm, _ in arms}
    table_ = table(full, "wrong-teacher", "calibrate", "calibration")
    own = [r["value"] for r in rows if r["arm"] == "wrong-teacher"]
    assert own == [None if math.isnan(v) else v for v in table_.value]


def test_results(full):
    arms = full.plan()["cells"]["arms"]
    rows = json.loads((full.folder / "data/report/results.json").read_text())
    assert len(rows) == 2 * len(arms)
    base = pd.read_parquet(full.cell("base", 0, "evaluate") / "evals.parquet")
    for row in rows:
        evals = pd.read_parquet(full.cell(row["arm"], row["round"], "evaluate") / "evals.parquet")
        own = evals[evals.decoding == row["decoding"]]
        theirs = base[base.decoding == row["decoding"]]
        assert row["accuracy"] == pytest.approx(own.correct.mean(), abs=1e-9)
        assert row["problems"] == own.problem_id.nunique() == 24
        assert row["k"] * row["problems"] == len(own)
        diff = (
            own.groupby("problem_id").correct.mean() - theirs.groupby("problem_id").correct.mean()
        )
        assert row["diff"] == pytest.approx(diff.mean(), abs=1e-9)
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["diff_low"] <= row["diff"] <= row["diff_high"]
        assert row["truncated"] == pytest.approx((own.finish_reason == "length").mean())
        assert row["mean_tokens"] == pytest.approx(own.tokens.mean())
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, int | float))
        if row["arm"] == "base":
            assert (row["diff"], row["diff_low"], row["diff_high"]) == (0, 0, 0)
    contrasts = json.loads((full.folder / "data/report/contrasts.json").read_text())
    named = {(c["arm"], c["versus"]) for c in contrasts}
    assert {("omniopd", v) for v in ("base", "shuffled-scores", "opd", "sft")} <= named


def test_the_demo_student_can_do_some_additions(full):
    base = pd.read_parquet(full.cell("base", 0, "evaluate") / "evals.parquet")
    assert 0 < base.correct.mean() < 1


def policy(folder):
    from pipeline.engines.hf import load

    return load(folder / "checkpoint", dtype=torch.float32)


def test_the_first_step_follows_from_its_targets_and_checkpoint(full):
    import pyarrow.parquet as pq

    from pipeline.training.optimizer_steps import order

    rollouts = pq.read_table(full.cell(ARM, 1, "rollout") / "rollouts.parquet")
    targets = pq.read_table(full.cell(ARM, 1, "prior") / "targets.parquet")
    examples = omniopd.examples(rollouts, targets)
    first = next(order(len(examples), 16, 1, 0, "train", 1))
    student = naive.double(policy(full.cell("base", 0, "policy")))
    vocabulary = len(policy(full.cell("base", 0, "policy")).tokenizer)
    signal = anchor = 0.0
    for i in first:
        (item,) = examples[i].sequences
        s, a = naive.signal_and_anchor("omniopd", student, None, student, item, vocabulary)
        signal, anchor = signal + float(s.detach()), anchor + float(a.detach())
    lines = (full.cell(ARM, 1, "train") / "metrics.jsonl").read_text().splitlines()
    found = json.loads(lines[0])
    assert found["train/signal"] == pytest.approx(signal / 16, abs=1e-5)
    assert found["train/anchor"] == pytest.approx(anchor / 16, abs=1e-5)
    assert found["train/loss"] == pytest.approx((signal + 0.1 * anchor) / 16, abs=1e-5)
    assert found["train/drift"] == pytest.approx(0, abs=1e-9)
    assert len(lines) == 2


def test_every_trained_arm_has_weights_of_its_own(full):
    arms = [arm for arm in full.plan()["cells"]["arms"] if arm != "base"]
    base = policy(full.cell("base", 0, "policy")).model.state_dict()
    seen = []
    for arm in arms:
        weights = policy(full.cell(arm, 1, "train")).model.state_dict()
        assert any(not torch.equal(weights[name], base[name]) for name in base)
        flat = torch.cat([w.flatten() for w in weights.values()])
        assert not any(torch.equal(flat, other) for other in seen)
        seen.append(flat)
    assert len(arms) == 32


def test_problems_are_right_and_no_two_splits_share_one(full):
    (path,) = (full.folder / "data/prepare").glob("*/prompts.parquet")
    prompts = pd.read_parquet(path)
    assert prompts.split.value_counts().to_dict() == {"train": 40, "test": 24, "dev": 8}
    assert prompts.prompt.is_unique
    for row in prompts.itertuples():
        left, right = row.prompt.rstrip("?").split("+")
        assert (len(left), len(right)) == (2, 2)
        assert int(row.answer) == int(left) + int(right)
        assert json.loads(row.messages) == [{"role": "user", "content": row.prompt}]


def test_grades_follow_from_the_responses(full):
    (path,) = (full.folder / "data/prepare").glob("*/prompts.parquet")
    answer = pd.read_parquet(path).set_index("prompt_id").answer
    evals = pd.read_parquet(full.cell(ARM, 1, "evaluate") / "evals.parquet")
    for row in evals.itertuples():
        said = row.response.rpartition("#")[2] if "#" in row.response else None
        assert row.correct == (said == answer[row.problem_id])
        assert row.correct <= (row.extracted == said)
    assert evals.correct.any()
    rollouts = table(full, ARM, "rollout", "rollouts")
    for row in rollouts.itertuples():
        said = row.text.rpartition("#")[2] if "#" in row.text else None
        assert row.reward == float(said == answer[row.prompt_id])
    assert set(rollouts.reward) == {0.0, 1.0}


def drawn(model, tok, prefix, draws):
    """Token ids sampled one by one, a random number each, until the end."""
    ids = []
    for u in draws:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prefix, *ids]])).logits[0, -1]
        total = torch.softmax(logits.double(), -1).cumsum(-1).numpy()
        ids.append(int(np.searchsorted(total, u * total[-1], side="right")))
        if ids[-1] == tok.eos_token_id:
            break
    return ids


def test_answers_are_the_teacher_sampled_from_the_prefix(full):
    from pipeline.judgments.keys import seed_for

    (careful,) = (
        key
        for key, cell in full.plan()["cells"]["pretrain"].items()
        if not any(cell["params"]["model"]["habits"].values())
    )
    folder = full.folder / f"data/pretrain/{careful}/checkpoint"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    rollouts = table(full, ARM, "rollout", "rollouts").set_index("rollout_id")
    answers = table(full, ARM, "teach", "answers")
    for row in answers.iloc[::17].itertuples():
        source = rollouts.loc[row.rollout_id]
        prefix = (*map(int, source.prompt_token_ids), *map(int, source.token_ids[: row.position]))
        draws = np.random.default_rng(seed_for(prefix, row.sample)).random(6)
        ids = drawn(model, tok, prefix, draws)
        assert row.text == tok.decode(ids, skip_special_tokens=True)
        assert row.ended == (ids[-1] == tok.eos_token_id)
        assert row.completion_tokens == len(ids)
    assert answers.ended.any()
    assert not answers.ended.all()


def test_pretraining_gives_no_held_out_problem_away():
    from itertools import islice

    from pipeline.tasks import arithmetic
    from stages.pretrain import PretrainParams, worked

    init = {"kind": "llama", "hidden": 8, "layers": 1, "heads": 1, "mlp": 8}
    model = {"init": init, "steps": 1, "batch_size": 1, "lr": 0.1}
    prepare = {"task": "arithmetic", "seed": 1, "train": 1, "dev": 1, "test": 1, "digits": 1}
    p = PretrainParams.model_validate({"model": model, "prepare": prepare, "seed": 0})
    held_out = {"1+1?", "2+3?"}
    seen = [messages[0]["content"] for messages, _ in islice(worked(p, held_out), 500)]
    assert not held_out & set(seen)
    assert len(set(seen)) > 60
    assert isinstance(p.prepare, arithmetic.Prepare)


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        (("chain_sum",), "0 worked solutions of datasets chain_sum in task 'prompts', wanted 16 "),
        (None, "'prompts' has no worked solutions"),
    ],
)
def test_a_task_without_solutions_is_named_where_a_model_is_to_learn_from_it(
    datasets, said, tmp_path
):
    from stages.pretrain import PretrainParams, worked

    file = tmp_path / "my.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Name {i}."}) + "\n" for i in range(4)))
    init = {"kind": "llama", "hidden": 8, "layers": 1, "heads": 1, "mlp": 8}
    model = {"init": init, "steps": 2, "batch_size": 8, "lr": 0.1, "datasets": datasets}
    prepare = {"task": "prompts", "seed": 1, "train": 4, "file": str(file)}
    p = PretrainParams.model_validate({"model": model, "prepare": prepare, "seed": 0})
    with pytest.raises(UserError, match=said):
        next(worked(p, set()))


def test_a_dataset_that_an_endless_task_has_not_is_not_waited_for(monkeypatch):
    from stages import pretrain

    monkeypatch.setattr(pretrain, "MOST_PASSED", 50)
    init = {"kind": "llama", "hidden": 8, "layers": 1, "heads": 1, "mlp": 8}
    model = {"init": init, "steps": 2, "batch_size": 8, "lr": 0.1, "datasets": ("chain_sum",)}
    prepare = {"task": "arithmetic", "seed": 1, "train": 1, "dev": 1, "test": 1, "digits": 1}
    told = {"model": model, "prepare": prepare, "seed": 0}
    p = pretrain.PretrainParams.model_validate(told)
    with pytest.raises(UserError, match=r"found 0 worked solutions of datasets chain_sum"):
        next(pretrain.worked(p, set()))
