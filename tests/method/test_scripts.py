"""Metrics and scripts: what each sees of a text, token-edit, and what a blind one does."""

# ruff: noqa: RUF001  letters that look like others are what this is about

import argparse
import functools
import itertools
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from rapidfuzz.distance import Levenshtein

from pipeline.calibration import summary
from pipeline.commands.audit.audit_params import Options, settings
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.data.text import chunk, decode, encode_after, left_stripped
from pipeline.method import similarity
from pipeline.method.similarity import Pair, similarities
from pipeline.method.similarity.rouge import Words
from pipeline.method.teacher_agreement import agreement
from pipeline.plan import expand, experiment
from pipeline.stage import cells, multi_step
from stages import score
from tests.calibration.test_calibrate import TOKENIZER, calibrated, found, response, written
from tests.data.test_text import BYTES, KIND
from tests.project import ROOT

SCRIPTS = {  # two texts that differ, and whether all-MiniLM's vocabulary lacks something of them
    "latin": ("the sum is 12", "the sum is 13", False),
    "cyrillic": ("сумма равна двум", "сумма равна трём", False),
    "greek": ("το άθροισμα είναι δύο", "το άθροισμα είναι τρία", False),
    "chinese": ("电脑", "苹果", True),
    "japanese": ("こたえは二", "こたえは三", False),
    "arabic": ("المجموع اثنان", "المجموع ثلاثة", False),
    "mathematics": ("∀x∈ℝ", "∃y∉ℕ", True),
    "operators": ("x ≤ 3 × π", "x ≥ 3 × π", False),
    "emoji": ("done 🦄", "done 🐙", True),
}
SCRIPT = pytest.mark.parametrize("script", SCRIPTS)


def pair(text, other, kind=TOKENIZER):
    """With the ids of a byte-level tokenizer, which can write every script."""
    ids = (tuple(kind.encode(x, add_special_tokens=False).ids) for x in (text, other))
    return Pair(text, False, other, False, *ids)


@SCRIPT
@pytest.mark.parametrize("metric", ["exact", "edit", "rouge1", "token-edit"])
def test_equal_texts_are_alike_and_others_are_not_in_every_script(script, metric):
    one, other, _ = SCRIPTS[script]
    pairs = [pair(one, one, BYTES), pair(one, other, BYTES)]
    same, different = similarities(pairs, metric, BYTES)
    assert same == 1
    assert different < 1
    assert similarity.unseen([one, other], metric) == [False, False]


@SCRIPT
def test_an_embedding_tells_which_texts_it_does_not_see_all_of(script):
    one, other, blind = SCRIPTS[script]
    assert similarity.unseen([one, other], "embedding") == [blind, blind]


def test_texts_that_differ_in_what_an_embedding_does_not_know_are_equal_to_it():
    blind = [pair(*SCRIPTS[name][:2]) for name in ("mathematics", "chinese")]
    seen = [pair(*SCRIPTS[name][:2]) for name in ("cyrillic", "arabic", "operators")]
    values = similarities([*blind, *seen], "embedding")
    assert values[:2] == pytest.approx([1, 1], abs=1e-5)
    assert max(values[2:]) < 0.999


@pytest.mark.parametrize(
    ("one", "other"), [("x \u2260 3", "x = 3"), ("a\u2209B", "a\u2208B"), ("\u304c", "\u304b")]
)
def test_an_embedding_that_takes_off_a_mark_does_not_see_it(one, other):
    assert similarities([pair(one, other)], "embedding") == pytest.approx([1], abs=1e-5)
    assert similarity.unseen([one, other], "embedding") == [True, False]


def test_an_accent_of_a_letter_is_no_unknown_character():
    texts = ["na\xefve caf\xe9", "\u0439\u043e\u0434", "\u03ac"]
    assert similarity.unseen(texts, "embedding") == [False] * 3
    # a stroke through a letter, and an arrow above it, are no accents
    assert similarity.unseen(["x\u0338", "v\u20d7"], "embedding") == [True] * 2


def test_a_text_that_an_embedding_cuts_off_is_not_seen_whole():
    assert similarity.unseen(["word " * 254, "word " * 255], "embedding") == [False, True]


def test_what_a_border_cut_and_blanks_before_a_text_are_no_unknown_characters():
    assert similarity.unseen(["\n  sum\ufffd", "", "a \ufffd b"], "embedding") == [False] * 3


@SCRIPT
def test_words_of_rouge_lose_nothing_but_white_space(script):
    for text in SCRIPTS[script][:2]:
        kept = unicodedata.normalize("NFC", "".join(text.split())).lower()
        assert "".join(Words().tokenize(f" {text}\n")) == kept


def test_words_of_rouge_are_those_of_the_script():
    assert Words().tokenize("x = -3") == ["x", "=", "-", "3"]
    assert Words().tokenize("∀x∈ℝ: f(x)≥0") == [*"∀x∈", "ℝ".lower(), ":", *"f(x)≥0"]
    assert Words().tokenize("你好 世界") == list("你好世界")
    assert Words().tokenize("Сумма РАВНА") == ["сумма", "равна"]
    assert Words().tokenize("मानक हिन्दी") == ["मानक", "हिन्दी"]  # vowel signs are marks
    assert Words().tokenize("и\u0306") == Words().tokenize(
        "й"
    )  # one character, written in two ways


def test_rouge1_sees_a_sign():
    (value,) = similarities([pair("x = -3", "x = 3")], "rouge1")
    assert value == pytest.approx(2 * 3 / (4 + 3))


@pytest.mark.parametrize(
    ("ids", "other", "expected"),
    [
        ((5, 6, 7, 8), (5, 6, 7, 8), 1),
        ((5, 6, 7, 8), (5, 9, 7, 8), 3 / 4),  # one replaced
        ((5, 6, 7, 8), (5, 7, 8), 3 / 4),  # one left out
        ((5, 6), (6, 5, 9, 9), 1 / 4),  # one put before, two behind: distance 3
        ((5,), (6,), 0),
        ((), (), 1),
        ((), (5,), 0),
        ((20000, 1), (20001, 1), 1 / 2),
    ],
)
def test_token_edit_is_hand_computed(ids, other, expected):
    from pipeline.method.similarity import token_edit

    pairs = [Pair("same", True, "same", True, *two) for two in ((ids, other), (other, ids))]
    assert token_edit.measure(pairs) == pytest.approx([expected] * 2)


def test_token_edit_of_characters_is_edit():
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 12, 400)
    texts = ["".join(draw.choice(list("ab1,  "), length)) for length in lengths]
    pairs = [pair(one, other) for one, other in itertools.pairwise(texts)]
    values = similarities(pairs, "token-edit", TOKENIZER)
    assert values == similarities(pairs, "edit")
    plain = [Levenshtein.normalized_similarity(p.text.lstrip(), p.other.lstrip()) for p in pairs]
    assert values == pytest.approx(plain)
    assert len(set(values)) > 10


def test_a_metric_of_ids_wants_the_students_tokenizer():
    with pytest.raises(ValueError, match="token-edit: no tokenizer, wanted the student's"):
        similarities([pair("a", "b")], "token-edit")


@KIND
@pytest.mark.parametrize("word", ["sum", "你好", "🦄", "= 3", "ön"])
def test_a_word_has_the_same_ids_with_and_without_blanks_before_it(kind, word):
    ids = functools.partial(encode_after, kind)
    before = ids([], "the")
    said = [ids(before, blanks + word) for blanks in ("", " ", "  ", "\n", "\n\n ")]
    found = {left_stripped(kind, one) for one in said}
    assert len({tuple(one) for one in said}) > 1
    assert len(found) == 1
    assert decode(kind, list(found.pop())).lstrip() == word


@KIND
def test_ids_of_blanks_alone_are_none_and_others_stay(kind):
    assert left_stripped(kind, encode_after(kind, [], " \n ")) == ()
    ids = encode_after(kind, [], "x = 12, the sum")
    assert decode(kind, left_stripped(kind, ids)) == "x = 12, the sum"
    assert left_stripped(kind, ids)[1:] == tuple(ids[1:])


def test_a_character_that_the_border_cuts_is_dropped_on_both_sides():
    ids = BYTES.encode("ab€", add_special_tokens=False).ids
    assert len(ids) == len("ab") + len("€".encode())
    cut = Pair("", False, "", False, tuple(ids[:-1]), tuple(ids[:2]))
    assert similarities([cut], "token-edit", BYTES) == [1]


def test_a_chunk_is_the_responses_own_ids_without_an_end_and_a_cut_character():
    ids = [*BYTES.encode("ab€", add_special_tokens=False).ids, 3]
    row = {"token_ids": ids, "finish_reason": "stop"}
    assert chunk(BYTES, row, {"position": 1, "length": 3}) == ids[1:2]
    assert chunk(BYTES, row, {"position": 1, "length": 4}) == ids[1:5]
    assert chunk(BYTES, row, {"position": 1, "length": 5}) == ids[1:5]  # the end is no text
    assert chunk(BYTES, row | {"finish_reason": "length"}, {"position": 5, "length": 1}) == [3]


def scored(folder, responses, length=3, samples=2, **changes):
    """The similarities (F, N) that the stage writes, and what it counts."""
    rollouts, forks, answers = written(folder, responses, length)
    common = {"metric": "edit", "source": "similarity", "allow_flat": True, "max_unseen": 0.05}
    changes = common | changes
    who = {"teacher": "t", "samples": samples, "seed": 0, "round": 1}
    p = score.ScoreParams.model_validate(changes | who)
    tokenizer = None
    if p.metric in similarity.OF_IDS:
        tokenizer = folder / "tokenizer.json"
        TOKENIZER.save(str(tokenizer))
    paths = {"rollouts": rollouts, "forks": forks, "answers": answers, "tokenizer": tokenizer}
    run = cells.Run()
    parts = list(score.scored(argparse.Namespace(**paths), p, run))
    values = pa.concat_tables(parts)["similarity"].to_numpy().reshape(-1, samples)
    return values, run.counts


SAID = [
    response("p", "abcdefgh$", {0: ["abd", " abc"], 6: ["gh$", "g"]}),
    response("p", "zzz", {}),  # no fork fits: it lies between two that have some
    response("q", "12,34 5 6", {3: ["34 ", "35"], 6: ["1", " 6"]}),
]


@pytest.mark.parametrize("source", ["similarity", "shuffled"])
def test_stage_score_with_token_edit_of_characters_writes_what_edit_does(tmp_path, source):
    values, counts = scored(tmp_path, SAID, metric="token-edit", source=source)
    expected, others = scored(tmp_path, SAID, metric="edit", source=source)
    assert values.tolist() == expected.tolist()
    assert counts == others
    assert "unseen" not in counts
    assert sorted(values.ravel()) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 2, 2 / 3, 1, 1, 1])


def test_the_contrast_of_token_edit_is_that_of_its_ids(tmp_path):
    _, counts = scored(tmp_path, SAID, metric="token-edit")
    assert counts["same_fork"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 3 + 0) / 4)


def test_scores_that_teach_nothing_stop_the_stage_unless_they_are_allowed(tmp_path):
    flat = [response(name, "abcdef", {0: ["xyz", "uvw"]}) for name in "pq"]
    with pytest.raises(UserError, match="k_sem is 0 in 100% of 2 forks with metric edit"):
        scored(tmp_path, flat, allow_flat=False)
    values, _ = scored(tmp_path, flat, allow_flat=True)
    assert values.tolist() == [[0, 0], [0, 0]]


MATHS = [
    response("p", "∀x∈ℝ", {0: ["∃y", "sum"]}),  # two of three are not seen whole
    response("q", "abcdef", {0: ["abc", "abd"], 3: ["def", "dem"]}),
]


@pytest.mark.parametrize("source", ["similarity", "shuffled"])
def test_texts_that_the_metric_cannot_see_are_counted_and_warned_of(tmp_path, caplog, source):
    _, counts = scored(tmp_path, MATHS, metric="embedding", max_unseen=0.3, source=source)
    assert counts["unseen"] == pytest.approx(2 / 9)
    assert (
        "score: metric embedding does not see all of 2 of 9 texts (22.2%): they hold characters "
        "that its tokenizer does not know, or are too long for it. Texts that differ only there "
        "are equal to it. Use metric token-edit or edit, which see every script."
    ) in caplog.text


@pytest.mark.parametrize("source", ["similarity", "shuffled"])
def test_score_stops_where_the_metric_is_blind_to_more_texts_than_allowed(tmp_path, source):
    with pytest.raises(UserError) as stopped:
        scored(tmp_path, MATHS, metric="embedding", source=source)
    assert str(stopped.value) == (
        "score: metric embedding does not see all of 2 of 9 texts (22.2%): they hold characters "
        "that its tokenizer does not know, or are too long for it. Texts that differ only there "
        "are equal to it. Use metric token-edit or edit, which see every script, or raise "
        "score.max_unseen = 0.05, the share of texts that may be so."
    )


def test_at_the_limit_a_stage_goes_on_and_where_all_is_seen_it_is_silent(tmp_path, caplog):
    p = {"metric": "embedding", "max_unseen": 2 / 9}
    scored(tmp_path, MATHS, **p)
    assert "does not see all" in caplog.text
    caplog.clear()
    _, counts = scored(tmp_path, MATHS[1:], **p)
    assert counts["unseen"] == 0
    assert caplog.text == ""
    values, _ = scored(tmp_path, MATHS, metric="edit")  # sees every script: nothing is counted
    assert len(values) == 3
    assert caplog.text == ""


def test_calibration_counts_what_a_metric_cannot_see_and_warns(tmp_path, monkeypatch):
    metrics = ["embedding", "edit"]
    rows = calibrated(tmp_path, MATHS, 3, 2, metrics=metrics, lengths=[3])
    row = found(rows, "unseen", "embedding")
    assert (row["value"], row["n"]) == (pytest.approx(2 / 9), 9)
    assert row["low"] <= 2 / 9 <= row["high"]
    assert "at 3 tokens metric embedding does not see all of 2 of 9 texts (22.2%)" in row["note"]
    assert not [r for r in rows if r["quantity"] == "unseen" and r["metric"] == "edit"]
    shown = summary.section([summary.Calibrated(["omniopd"], 0, 1, "t", rows)])
    assert f"- **Warning**, omniopd, teacher t, seed 0, round 1: {row['note']}" in shown
    rows = calibrated(tmp_path, MATHS[1:], 3, 2, metrics=metrics, lengths=[3])
    seen = found(rows, "unseen", "embedding")
    assert (seen["value"], seen["note"]) == (0, None)


def test_calibration_of_token_edit_of_characters_is_that_of_edit_at_every_length(tmp_path):
    draw = np.random.default_rng(3)
    made = []
    for problem, number in itertools.product("pqr", range(3)):
        texts = ["".join(draw.choice(list("ab 1"), 4)) for _ in range(8)]
        own = ("aab" if number else "aaa") + "".join(draw.choice(list("ab 1"), 6)) + "$"
        made.append(response(problem, own, {0: texts[:4], 4: texts[4:]}))
    rows = calibrated(tmp_path, made, 4, 4, metrics=["edit", "token-edit"], lengths=[1, 2, 4])
    one, other = (
        [{**r, "metric": "", "note": ""} for r in rows if r["metric"] == name]
        for name in ("edit", "token-edit")
    )
    assert one == other
    assert found(rows, "contrast/within-state", "token-edit", 4)["n"] > 0
    assert len({r["value"] for r in other}) > 20


def test_the_baseline_of_token_edit_compares_the_ids_of_the_answers(tmp_path):
    _, _, answers = written(tmp_path, SAID, 3)
    table = tables.read(answers, schemas.ANSWERS)
    places = {"rollout_id": ["r0", "r0", "r2", "r2"], "position": [0, 6, 3, 6]}
    agreed = agreement(pa.table(places), [table], 2, "token-edit", TOKENIZER)
    assert agreed == pytest.approx([2 / 3, 1 / 2, 1 / 3, 0])


def planned(tmp_path, block=None, **arm):
    found = experiment.read_yaml(ROOT / "params.yaml")
    found["arms"]["omniopd"] = arm
    found["experiment"] |= {"arms": ["omniopd"], "rounds": 1} | (block or {})
    (tmp_path / "params.yaml").write_text(json.dumps(found))
    return expand.expand(experiment.load(tmp_path / "params.yaml"))["cells"]


def test_only_a_metric_that_can_be_blind_has_the_limit_in_its_cell(tmp_path):
    for metric, has in (("exact", False), ("token-edit", False), ("embedding", True)):
        made = planned(tmp_path, score={"metric": metric, "max_unseen": 0.25})
        group = "score-ids" if metric == "token-edit" else "score"
        (cell,) = made[group].values()
        assert cell["params"].get("max_unseen") == (0.25 if has else None)
        assert ("student" in cell) == (group == "score-ids")
        (report,) = made["report"].values()
        shown = report["params"]["settings"]["omniopd"]["score"]
        assert ("max_unseen" in shown) == has


def test_score_in_a_cell_of_several_steps_gets_the_students_tokenizer(tmp_path):
    made = planned(tmp_path, {"steps_per_cell": 2, "rounds": 2}, score={"metric": "token-edit"})
    ((key, cell),) = made["steps"].items()
    one = next(one for one in multi_step.inner(key, cell) if one.stage == "score")
    assert one.content["reads"]["tokenizer"] == f"{cell['base']}/checkpoint/tokenizer.json"


def test_an_audit_counts_what_its_metric_cannot_see_and_goes_on(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1?"}\n')
    who = {"student": "some/hub", "teacher": "http://localhost:1/v1", "model": "m"}
    files = {"prompts": tmp_path / "p.jsonl", "out": tmp_path / "out"}
    asked = Options(**who, **files, metric="embedding", count=1)
    (tmp_path / "params.yaml").write_text(json.dumps(settings(asked)))
    file = experiment.load(tmp_path / "params.yaml")
    (cell,) = expand.audited(file, "omniopd")["cells"]["score"].values()
    assert cell["params"]["max_unseen"] == 1
    assert "token-edit" in file.calibrate.metrics
