"""The answers view: its data beside the tables, and its filters in a real browser."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.analysis.results import Evals
from pipeline.report.page import forks
from pipeline.report.page.answers import data as answers
from tests import handmade
from tests.report.test_sections import plan_of

CASES = {"right": (False, True), "wrong": (True, False), "both-right": (True, True)}
CASES["both-wrong"] = (False, False)


def view(made, monkeypatch, **limits):
    monkeypatch.chdir(made)
    plan = plan_of(made)
    return answers.view(Evals(plan["arms"]), made / plan["prompts"] / "prompts.parquet", **limits)


def evaluated(made, arm, decoding="sampled", sample=0):
    """Rows of an arm's last evaluation by problem, of one kind of answer."""
    plan = plan_of(made)["arms"][arm]["seed-0"]
    key = plan["round-0" if arm == "base" else "round-2"]["evaluate"]
    rows = pq.read_table(made / "data/evaluate" / key / "evals.parquet").to_pylist()
    own = [r for r in rows if (r["decoding"], r["sample"]) == (decoding, sample)]
    return {row["problem_id"]: row for row in own}


def case(before, after):
    pair = (before["correct"], after["correct"])
    return next(name for name, wanted in CASES.items() if wanted == pair)


def shown(page):
    return [item.get_attribute("data-problem") for item in page.locator("#a-list > li").all()]


# ---- the data


def test_tallies_count_every_problem_and_answers_are_those_of_the_tables(made, monkeypatch):
    found = view(made, monkeypatch)
    assert found["kinds"] == ["sample 1", "greedy", "sample 2"]
    assert [one["arm"] for one in found["views"]] == [
        a for a in plan_of(made)["arms"] if a != "base"
    ]
    text = found["texts"]
    for one in found["views"]:
        for kind, (decoding, sample) in enumerate([("sampled", 0), ("greedy", 0), ("sampled", 1)]):
            before = evaluated(made, "base", decoding, sample)
            after = evaluated(made, one["arm"], decoding, sample)
            cases = [case(before[name], after[name]) for name in before]
            assert one["tally"][kind] == [cases.count(name) for name in CASES]
            for (name, _, asked, wanted), answer in zip(
                found["problems"], one["answers"], strict=True
            ):
                said, final, flags, tokens = answer[kind]
                assert text[said] == after[name]["response"]
                assert (None if final < 0 else text[final]) == after[name]["extracted"]
                assert (flags % 2 == 1) == after[name]["correct"]
                assert (flags >= 2) == (after[name]["finish_reason"] == "length")
                assert tokens == after[name]["tokens"]
                assert text[asked] == f"{int(name[-6:])}+1?"
                assert text[wanted] == str(int(name[-6:]) + 1)


def test_the_view_stays_within_its_limits_and_says_of_how_many_it_shows_some(made, monkeypatch):
    whole = view(made, monkeypatch)
    some = view(made, monkeypatch, most=5)
    assert (some["total"], len(some["problems"])) == (handmade.PROBLEMS, 5)
    assert [one["tally"] for one in some["views"]] == [one["tally"] for one in whole["views"]]
    for budget in (6_000, 3_000):
        found = view(made, monkeypatch, budget=budget)
        assert len(forks.dumps(found).encode()) <= budget
        assert 0 < len(found["problems"]) < handmade.PROBLEMS
        assert found["kinds"] == ["sample 1", "greedy"]
        assert all(len(one["tally"]) == 2 for one in found["views"])


def test_answers_that_not_every_arm_gave_cannot_be_chosen(made, monkeypatch):
    monkeypatch.chdir(made)
    plan = plan_of(made)
    evals = Evals(plan["arms"])
    for who in [("base", 0, 0), ("sft", 0, 2)]:
        table = evals.tables[who]
        fewer = pc.or_(pc.equal(table["decoding"], "greedy"), pc.equal(table["sample"], 0))
        evals.tables[who] = table.filter(fewer)
    found = answers.view(evals, made / plan["prompts"] / "prompts.parquet")
    assert found["kinds"] == ["sample 1", "greedy"]
    for one in found["views"]:
        assert [sum(tally) for tally in one["tally"]] == [handmade.PROBLEMS] * 2


def test_problems_are_drawn_by_their_ids_and_the_tasks_in_turn():
    asked = [("one", f"a{i}") for i in range(20)] + [("two", "b0"), ("two", "b1")]
    drawn = answers.draw(asked, 6)
    assert [task for task, _ in drawn] == ["one", "two", "one", "two", "one", "one"]
    assert answers.draw(asked[::-1], 6) == drawn
    assert answers.draw(asked, 4) == drawn[:4]


def test_a_long_text_keeps_begin_and_end_and_says_what_is_left_out():
    begin, left, end = answers._cut("a" * answers.BEGIN + "b" * 7 + "c" * answers.END)
    assert (begin, left, end) == ("a" * answers.BEGIN, 7, "c" * answers.END)
    assert answers._cut("a" * (answers.BEGIN + answers.END)).startswith("a")


def test_grades_are_compared_by_problem_whatever_the_order_of_the_rows():
    def graded(*rows):
        names = ("problem_id", "correct")
        own = [dict(zip(names, r, strict=True)) | {"decoding": "greedy", "sample": 0} for r in rows]
        return pa.Table.from_pylist(own)

    table = graded(("b", True), ("a", False), ("c", True))
    assert answers._grades(table, ("greedy", 0)).tolist() == [False, True, True]


# ---- in the browser


@pytest.mark.browser
@pytest.mark.parametrize(("arm", "kind"), [("omniopd", "sample 1"), ("grpo", "greedy")])
def test_filters_show_what_the_tables_hold(visit, made, arm, kind):
    page = visit()
    page.select_option("#a-arm", arm)
    page.select_option("#a-kind", label=kind)
    decoding = "greedy" if kind == "greedy" else "sampled"
    before, after = evaluated(made, "base", decoding), evaluated(made, arm, decoding)
    cases = {name: case(before[name], after[name]) for name in before}
    for name in CASES:
        page.select_option("#a-case", name)
        assert shown(page) == [problem for problem, own in cases.items() if own == name][:12]
        tally = page.locator("#a-tally").inner_text()
        assert f"{list(cases.values()).count(name)} " in tally
    page.select_option("#a-case", "changed")
    changed = [n for n in before if before[n]["extracted"] != after[n]["extracted"]]
    assert shown(page) == changed[:12]
    page.locator("#a-filters button").click()
    assert shown(page) == list(before)[:12]
    lengths = sorted(row["tokens"] for row in after.values())
    least = lengths[len(lengths) // 2]
    page.fill("#a-min", str(least))
    assert shown(page) == [n for n, row in after.items() if row["tokens"] >= least][:12]
    page.select_option("#a-order", "longest")
    found = [after[name]["tokens"] for name in shown(page)]
    assert found == sorted(lengths, reverse=True)[: len(found)]
    page.fill("#a-min", "")
    page.fill("#a-text", "13+1?")
    assert shown(page) == ["test-000013"]
    assert "1 to 1 of 1 that match, of 20" in page.locator("#a-count").inner_text()
    page.fill("#a-text", "nowhere")
    assert page.locator("#a-none").is_visible()


@pytest.mark.browser
def test_answers_stand_beside_each_other_as_text(visit, made):
    page = visit()
    row = page.locator("#a-list > li").first
    texts = row.locator(".text").all_text_contents()
    assert texts == ["0+1?", handmade.SCRIPT, handmade.SCRIPT]
    assert row.locator("script").count() == 0
    assert row.locator("b").all_inner_texts() == ["base", "omniopd"]
    assert "no final answer" in row.inner_text()
    assert "cut off at the limit" in row.inner_text()
    assert "wanted 1" in row.inner_text()
    assert "Shows all 20 problems." in page.locator("#a-sample").inner_text()


@pytest.mark.browser
def test_keys_move_between_problems_and_pages(visit):
    page = visit()
    now = "document.activeElement.dataset.problem"
    page.locator("#a-list > li").first.focus()
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(now) == "test-000002"
    page.keyboard.press("k")
    assert page.evaluate(now) == "test-000001"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(now) == "test-000012"
    assert "13 to 20 of 20" in page.locator("#a-count").inner_text()
    assert page.locator("#a-next").is_disabled()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(now) == "test-000000"
    assert page.locator("#f-count").inner_text().startswith("2 of")  # the other browser stays
    page.locator("#a-text").focus()
    page.keyboard.press("j")  # letters typed into a field are not commands
    assert page.input_value("#a-text") == "j"


@pytest.mark.browser
def test_paper_has_a_few_problems_no_controls_and_dark_ink(visit):
    page = visit(scheme="dark", width=718)  # A4 without its margins
    page.emulate_media(media="print")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    assert page.locator("#a-filters").is_hidden()
    assert page.locator("#a-list > li:visible").count() == 6
    assert page.get_by_text("the first six of them").is_visible()
    colour = page.evaluate("getComputedStyle(document.querySelector('#a-list .text')).color")
    assert colour == "rgb(26, 32, 39)"
