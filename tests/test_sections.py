"""The parts of the report page, on rows made by hand and on tiny tables."""

import json
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.page import calibration, forks, how, outcome, sections
from pipeline.page.pieces import _by_prefix, pieces
from tests import handmade


def plan_of(made):
    found = YAML(typ="safe").load((made / "plan.yaml").read_text())
    return found["cells"]["report"]["creport"]["params"]


# ---- the sections, on rows made by hand

VERDICT = {
    "arm": "omniopd", "versus": "base", "task": "t", "seeds": 3, "problems": 600, "k": 4,
    "diff": 0.42, "low": 0.4, "high": 0.44, "df": 2.5, "p": 0.001, "p_holm": 0.0049,
    "named": True, "margin": 0.14, "verdict": "supported", "needed": "",
}  # fmt: skip
LEVEL = {
    "arm": "omniopd", "seed": 0, "round": 1, "teacher": "carries", "metric": "edit",
    "chunk_tokens": 6, "quantity": "other_fork", "bin": "", "value": 0.25, "low": 0.2,
    "high": 0.3, "n": 100,
}  # fmt: skip
BRANCH = {
    "control": "shuffled-scores", "seed": 0, "round": 1, "task": "t", "real": 0.5,
    "control_accuracy": 0.4, "diff": 0.1, "low": 0.05, "high": 0.15,
}  # fmt: skip


def result(arm, seed, round_, accuracy, decoding="sampled"):
    return {
        "arm": arm, "seed": seed, "round": round_, "task": "t", "decoding": decoding, "k": 2,
        "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1,
        "diff": accuracy - 0.25, "diff_low": accuracy - 0.3, "diff_high": accuracy - 0.2,
        "problems": 9, "tokens_used": 100 * round_, "tokens_bought": 0, "usd": 0.0,
        "seconds": 2.0, "truncated": 0.0, "mean_tokens": 5.0,
    }  # fmt: skip


def test_no_rows_make_no_section():
    assert sections.branches([]) is None
    assert sections.costs([], [], []) is None
    assert sections.curves([], ["base"], "test") is None
    assert calibration.section([]) is None
    assert how.section({}, {}, []) is None
    assert outcome.verdicts([]) == outcome.contrasts([]) == []


def test_verdicts_are_cards_and_the_unnamed_a_closed_table():
    cards, table = outcome.verdicts([VERDICT, VERDICT | {"arm": "opd", "named": False}])
    (card,) = cards.cards
    assert (card.badge, card.tone) == ("supported", "good")
    assert card.numbers == "+0.420 [+0.400, +0.440]"
    assert "3 seeds and 600 problems" in card.text
    assert "p = 0.0049 after Holm" in card.text
    assert [row[0].text for row in table.rows] == ["opd"]
    assert table.closed


def test_a_forest_mark_lies_where_its_numbers_are():
    (cards,) = outcome.verdicts([VERDICT, VERDICT | {"diff": -0.2, "low": -0.3, "high": -0.1}])
    one, other = (card.forest for card in cards.cards)
    assert other.low < other.value < other.high < other.zero == one.zero < one.low < one.high
    # places are linear: 0.42 to -0.2 is 0.62 of it, 0.42 to 0 is 0.42
    assert (one.value - other.value) / (one.value - one.zero) == pytest.approx(
        0.62 / 0.42, rel=1e-2
    )


def test_several_seeds_give_means_and_every_seed():
    rows_ = [result("base", s, 0, 0.25) for s in (0, 1)]
    rows_ += [result("omniopd", s, 2, v) for s, v in ((0, 0.5), (1, 0.7))]
    rows_ += [result("omniopd", 0, 1, 0.9)]  # not a last round
    means, *seeds_ = outcome.results(rows_, [VERDICT])
    line = next(row for row in means.rows if row[0].text == "omniopd")
    assert (line[1].text, line[1].small) == ("0.600", "0.500 to 0.700")
    assert (line[2].text, line[2].small) == ("+0.420", "[+0.400, +0.440]")
    assert [table.caption for table in seeds_] == ["Seed 0", "Seed 1"]
    assert seeds_[1].rows[1][1].text == "0.700"


def test_lines_begin_at_the_base_of_their_seed():
    def point(arm, seed, round_, accuracy, source="evaluation"):
        return {"arm": arm, "seed": seed, "round": round_, "source": source,
                "accuracy": accuracy, "low": accuracy, "high": accuracy}  # fmt: skip

    bases = [point("base", 0, 0, 0.2), point("base", 1, 0, 0.4)]
    own = [point("opd", 0, 2, 0.6), point("opd", 1, 2, 0.8)]
    lines = sections.begun(own, bases)
    assert [(p["seed"], p["round"], p["accuracy"]) for p in lines] == [
        (0, 0, 0.2), (0, 2, 0.6), (1, 0, 0.4), (1, 2, 0.8),
    ]  # fmt: skip
    assert [(p["accuracy"], p["low"], p["high"]) for p in sections.over_seeds(lines, [])] == [
        (pytest.approx(0.3), 0.2, 0.4), (pytest.approx(0.7), 0.6, 0.8),
    ]  # fmt: skip


def test_costs_of_costs_json_can_be_picked_and_zeros_cannot():
    results = [result("base", 0, 0, 0.25), result("omniopd", 0, 2, 0.5)]
    found = sections.costs(
        [{"arm": "omniopd", "seed": 0, "round": 2, "optimizer_steps": 32, "usd": 0.0}],
        results,
        ["base", "omniopd"],
    )
    (pick,) = found.blocks[0].charts[0].picks
    assert [name for name, _ in pick["options"]] == ["tokens_used", "optimizer_steps", "seconds"]


# ---- the fork browser's data


def byte_level():
    """A tokenizer that cuts inside characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["the sum of the numbers is the sum"], trainer)
    return tokenizer


@pytest.mark.parametrize(
    "text", ["", "the sum", " the\n\nsum  is ", "naïve 😀😀 漢字", "a\ufffdb 😀", "x" * 300]
)
def test_pieces_add_up_to_the_text_and_agree_with_whole_prefixes(text):
    tokenizer = byte_level()
    ids = [*tokenizer.encode(text).ids, tokenizer.token_to_id("<eos>")]
    found = pieces(tokenizer, ids, text)
    assert len(found) == len(ids)
    assert "".join(found) == text == "".join(_by_prefix(tokenizer, ids, text))
    if "\ufffd" not in text:
        assert found == _by_prefix(tokenizer, ids, text)


def test_pieces_of_a_response_cut_inside_a_character_add_up():
    tokenizer = byte_level()
    ids = tokenizer.encode("the 😀").ids[:-1]
    text = tokenizer.decode(ids)
    assert text.endswith("\ufffd")
    assert "".join(pieces(tokenizer, ids, text)) == text


def test_json_in_the_page_cannot_end_its_element():
    value = {"text": "</script><!-- <script>"}
    text = forks.dumps(value)
    assert "<" not in text
    assert json.loads(text) == value


def browse(made, monkeypatch, **limits):
    monkeypatch.chdir(made)
    plan = plan_of(made)
    return forks.browser(plan["arms"], plan["settings"], **limits)


def test_arms_share_the_cells_that_they_share(made, monkeypatch):
    found = browse(made, monkeypatch)
    one, other = (
        next(v for v in found["views"] if (v["arm"], v["round"]) == (arm, 1))
        for arm in ("omniopd", "shuffled-scores")
    )
    assert one["rollout"] == other["rollout"]
    assert one["cells"]["teach"] == other["cells"]["teach"]
    assert one["cells"]["score"] != other["cells"]["score"]
    assert len(found["rollouts"]) == 6
    assert found["absent"] == ["base", "sft"]


def test_a_sample_is_half_right_and_stays_within_the_budget(made, monkeypatch):
    whole = browse(made, monkeypatch)
    assert all(len(r["rows"]) == handmade.RESPONSES for r in whole["rollouts"].values())
    some = browse(made, monkeypatch, most=4)
    for rollout in some["rollouts"].values():
        assert [row[4] for row in rollout["rows"]].count(1.0) == 2
        assert rollout["total"] == handmade.RESPONSES
    sizes = []
    for budget in (30_000, 15_000, 8_000):
        found = browse(made, monkeypatch, budget=budget)
        shown_ = {row[0] for r in found["rollouts"].values() for row in r["rows"]}
        sizes.append(shown_)
        assert len(forks.dumps(found).encode()) < budget + 1000
    assert all(later <= earlier for earlier, later in pairwise(sizes))
    assert len(sizes[-1]) < len(sizes[0])


def test_a_sample_does_not_depend_on_the_row_groups(made):
    plan = plan_of(made)
    key = plan["arms"]["grpo"]["seed-0"]["round-2"]["rollout"]
    table = pq.read_table(made / "data/rollout" / key / "rollouts.parquet")
    whole, cut = forks.Draw(5), forks.Draw(5)
    whole.add(table)
    for i in range(len(table)):
        cut.add(table.slice(i, 1))
    assert whole.rows() == cut.rows()
    assert len(whole.rows()) == 5
