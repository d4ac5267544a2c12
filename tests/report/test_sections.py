"""The parts of the report page, on rows made by hand and on tiny tables."""

import json
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.analysis import intervals
from pipeline.report.page import calibration, explained, forks, how, outcome, sections
from pipeline.report.page.pieces import _by_prefix, pieces
from tests import handmade


def plan_of(made):
    found = YAML(typ="safe").load((made / "plan.yaml").read_text())
    return found["cells"]["report"]["creport"]["params"]


# ---- the sections, on rows made by hand

VERDICT = {
    "arm": "omniopd", "versus": "base", "task": "t", "seeds": 3, "problems": 600, "k": 4,
    "diff": 0.42, "low": 0.4, "high": 0.44, "df": 2.5, "p": 0.001, "p_holm": 0.0049,
    "named": True, "claim": None, "margin_points": None, "margin_relative": None, "margin": None,
    "verdict": "supported", "needed": None,
}  # fmt: skip
LEVEL = {
    "arm": "omniopd", "seed": 0, "round": 1, "teacher": "carries", "metric": "edit",
    "chunk_tokens": 6, "quantity": "floor/other-fork", "bin": None, "value": 0.25, "low": 0.2,
    "high": 0.3, "n": 100, "note": None,
}  # fmt: skip
BRANCH = {
    "control": "shuffled-scores", "seed": 0, "round": 1, "task": "t", "real_accuracy": 0.5,
    "control_accuracy": 0.4, "diff": 0.1, "low": 0.05, "high": 0.15, "p": None,
    "problems": 9,
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
    assert how.section({}, {}) is None
    assert outcome.verdicts([]) == outcome.contrasts([]) == []


def test_verdicts_are_cards_and_the_unnamed_a_closed_table():
    other = VERDICT | {"arm": "opd", "named": False, "p_holm": None, "verdict": "exploratory"}
    works, cards, table = outcome.verdicts(
        [VERDICT, VERDICT | {"versus": "shuffled-scores"}, other]
    )
    assert works.text.startswith("omniopd works here")
    assert works.tone == "good"
    card = cards.cards[0]
    assert (card.badge, card.tone) == ("supported", "good")
    assert card.numbers == "+0.420 [+0.400, +0.440]"
    assert "The interval is above zero" in card.text
    assert "3 seeds and 600 problems" in card.text
    assert "p = 0.0049 after Holm" in card.text
    assert [row[0].text for row in table.rows] == ["opd"]
    assert table.closed


def test_a_contrast_of_the_primary_pair_says_its_level_and_one_behind_the_gate_has_no_card():
    primary = VERDICT | {"family": "primary"}
    behind = VERDICT | {"versus": "opd", "p_holm": None, "verdict": "exploratory"}
    _, cards, table = outcome.verdicts([primary, behind])
    assert [card.title for card in cards.cards] == ["omniopd minus base"]
    assert "p = 0.0049 at the full level" in cards.cards[0].text
    assert [row[1].text for row in table.rows] == ["opd"]


def test_nothing_solved_is_flat_and_never_as_predicted():
    said = {"verdict": "undecided: nothing was solved", "needed": "evaluate easier problems"}
    works, cards = outcome.verdicts([VERDICT | said | {"note": "nothing was solved"}])
    assert works.tone == cards.cards[0].tone == "flat"
    assert "Evaluate easier problems" in cards.cards[0].text
    row = {"arm": "shuffled-scores", "versus": "base", "seed": 0, "round": 1, "task": "t"}
    row |= {"diff": 0.0, "low": -0.05, "high": 0.05, "note": "nothing was solved"}
    (card,) = outcome.contrasts([row])[0].cards
    assert (card.badge, card.tone) == ("nothing was solved", "flat")
    (card,) = outcome.contrasts([row | {"note": None}])[0].cards
    assert card.badge == "as predicted"


def test_log_odds_stand_beside_points_where_a_report_has_them():
    odds = {"log_odds": -1.1, "log_odds_low": -1.25, "log_odds_high": -0.99}
    for more, text in (({}, ""), (odds, "-1.10")):
        (table,) = outcome.results([result("base", 0, 0, 0.25) | more])
        assert table.head[:3] == ["arm", "sampled avg@2", "log odds"]
        assert table.rows[0][2].text == text


def test_without_holm_a_card_says_what_is_needed():
    one = {"seeds": 1, "p_holm": None, "verdict": "seen in this run", "needed": "add seeds"}
    (cards,) = outcome.verdicts([VERDICT | one])
    assert (cards.cards[0].badge, cards.cards[0].tone) == ("seen in this run", "flat")
    assert "Add seeds." in cards.cards[0].text


def test_a_forest_mark_lies_where_its_numbers_are():
    _, cards = outcome.verdicts([VERDICT, VERDICT | {"diff": -0.2, "low": -0.3, "high": -0.1}])
    one, other = (card.forest for card in cards.cards)
    assert other.low < other.value < other.high < other.zero == one.zero < one.low < one.high
    # places are linear: 0.42 to -0.2 is 0.62 of it, 0.42 to 0 is 0.42
    assert (one.value - other.value) / (one.value - one.zero) == pytest.approx(
        0.62 / 0.42, rel=1e-2
    )


def test_several_seeds_give_one_line_an_arm_and_every_seed():
    rows = [result("base", s, 0, 0.25) for s in (0, 1)]
    rows += [result("omniopd", s, 2, v) for s, v in ((0, 0.5), (1, 0.7))]
    rows += [result("omniopd", 0, 1, 0.9)]  # not a last round
    means, *seeds = outcome.results(rows)
    line = next(row for row in means.rows if row[0].text == "omniopd")
    assert (line[1].text, line[1].small) == ("0.600", "[0.500, 0.700]")
    assert (line[3].text, line[3].small) == ("+0.350", "[+0.250, +0.450]")
    assert [table.caption for table in seeds] == ["Seed 0", "Seed 1"]
    assert seeds[1].rows[1][1].text == "0.700"
    pooled = [POOLED | {"round": 1, "accuracy": 0.1}, POOLED]
    line = next(r for r in outcome.results(rows, pooled)[0].rows if r[0].text == "omniopd")
    assert (line[1].text, line[1].small) == ("0.610", "[0.400, 0.800]")
    assert (line[3].text, line[3].small) == ("+0.360", "[+0.100, +0.500]")


POOLED = {
    "arm": "omniopd", "round": 2, "task": "t", "seeds": 2, "accuracy": 0.61, "low": 0.4,
    "high": 0.8, "diff": 0.36, "diff_low": 0.1, "diff_high": 0.5,
}  # fmt: skip


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


def test_costs_are_sums_of_costs_json_and_zeros_cannot_be_picked():
    results = [result("base", 0, 0, 0.25), result("omniopd", 0, 2, 0.5)]
    spent = {"optimizer_steps": 16, "total_optimizer_steps": 32, "total_usd_spent": 0.0}
    rows = [{"arm": "omniopd", "seed": 0, "round": 2, "total_usd_alone": None} | spent]
    found = sections.costs(rows, results, ["base", "omniopd"])
    (chart,) = found.blocks[0].charts
    assert [name for name, _ in chart.picks[0]["options"]] == ["optimizer_steps"]
    ((values),) = chart.spec["datasets"].values()
    assert [(v["arm"], v["optimizer_steps"]) for v in values] == [("base", 0), ("omniopd", 32)]
    plain = sections.costs([], results, ["base", "omniopd"])
    names = [name for name, _ in plain.blocks[0].charts[0].picks[0]["options"]]
    assert names == ["tokens_used", "seconds"]


def test_a_mean_of_branches_has_its_own_interval():
    rows = [BRANCH, BRANCH | {"seed": 1}, BRANCH | {"seed": None, "low": -0.2, "high": 0.4}]
    _, table = sections.branches(rows).blocks
    assert [row[2].text for row in table.rows] == ["0", "1", "mean"]
    assert [row[5].small for row in table.rows] == ["[+0.050, +0.150]"] * 2 + ["[-0.200, +0.400]"]


def test_calibration_warns_and_shows_what_arms_share_once():
    warning = LEVEL | {"quantity": "warning", "note": "flat: it predicts no learning"}
    untold = LEVEL | {"quantity": "ceiling/student", "value": None, "low": None, "high": None}
    rows = [LEVEL, LEVEL | {"arm": "opd"}, LEVEL | {"arm": "sft", "value": 0.5}, warning, untold]
    said, drawn, table = calibration.section(rows).blocks
    assert (said.text, said.tone) == ("flat: it predicts no learning", "bad")
    assert len(drawn.charts) == 1
    lines = [(row[0].text, row[7].text) for row in table.rows]
    assert lines == [
        ("omniopd and 1 more", "0.250"), ("sft", "0.500"), ("omniopd", "cannot be told"),
    ]  # fmt: skip


# ---- what the page says of itself


def settings_of(objective, **blocks):
    own = {"forks": {"scheduler": "peak-entropy"}, "teach": {"teacher": "carries"}}
    own |= {"score": {"source": "similarity"}, "prior": {"source": "scores"}}
    return own | {"train": {"objective": objective}, "prepare": {"task": "t"}} | blocks


def test_every_column_of_the_results_is_explained():
    heads = [head.format(k=4) for head in outcome.HEAD if head]
    assert all(explained.column(head) for head in heads)
    assert [head for head, _ in explained.columns([*heads, "", "arm"])] == heads
    assert explained.column("a column of tomorrow") == ""


def test_an_arm_is_explained_by_its_settings_and_not_by_its_name():
    settings = {
        "omniopd": settings_of("sft"),  # of somebody who calls it so
        "moved": settings_of("omniopd", score={"source": "shuffled"}),
        "wrong": settings_of("omniopd", teach={"teacher": "never", "problem": "another"}),
        "own": settings_of("extensions.mine"),
    }
    said = explained.arms(["base", *settings], settings, {"carries": "", "never": ""})
    assert said["base"] == "The student before any training."
    assert said["omniopd"] == "Imitates whole solutions that the teacher wrote; teacher carries."
    assert "change places between forks (a control)" in said["moved"]
    assert "teacher never; the teacher sees another problem" in said["wrong"]
    assert "objective extensions.mine" in said["own"]
    alone = explained.arms(["moved"], settings, {"carries": ""})
    assert "teacher carries" not in alone["moved"]


def test_the_heading_has_student_teacher_and_task_of_the_first_arm():
    student = {"name": "small", "from": "hub, name org/small"}
    settings = {"omniopd": settings_of("omniopd", prepare={"task": "t", "datasets": {"a": {}}})}
    assert how.title(student, settings) == "small taught by carries: t (a)"
    assert how.facts(student, {"carries": "local"}, settings, 3, {"plan": "p"}) == [
        ("student", "small (hub, name org/small)"), ("teacher", "carries (local)"),
        ("task", "t (a)"), ("rounds", "3"), ("plan", "p"),
    ]  # fmt: skip
    assert how.title({}, {}) == "OmniOPD experiment"
    assert how.facts({}, {}, {}, 0, {}) == []


def test_only_lines_over_rounds_that_were_not_evaluated_are_dashed_and_say_so():
    def points(*rounds):
        row = {"seed": 0, "source": "evaluation", "accuracy": 0.5, "low": 0.4, "high": 0.6}
        return [row | {"arm": "base" if not r else "omniopd", "round": r} for r in rounds]

    for rounds, note in (((0, 1, 2), ""), ((0, 2), sections.GAPS)):
        found = sections.curves(points(*rounds), ["base", "omniopd"], "test")
        assert found.blocks[0].charts[0].note == note


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


@pytest.mark.parametrize(
    ("low", "high", "sign", "wanted"),
    [
        (0.0, 0.000307, "", "0.0000 [0.0000, 0.0003]"),
        (0.9996, 1.0, "", "0.0000 [0.9996, 1.0000]"),
        (-0.00004, 0.02, "+", "+0.00000 [-0.00004, +0.02000]"),
        (0.0, 0.056, "", "0.000 [0.000, 0.056]"),
        (0.0, 0.0, "+", "+0.000 [+0.000, +0.000]"),
        (-1e-17, 0.25, "+", "+0.000 [-0.000, +0.250]"),  # rounding noise
    ],
)
def test_no_limit_looks_like_0_or_1_that_is_not(low, high, sign, wanted):
    assert intervals.interval(0.0, low, high, sign) == wanted
