"""Problems that are one problem written twice, and those that are not."""

import json
import logging
import time

import pytest

from pipeline.core.errors import UserError
from pipeline.tasks import code, load, math, prompts
from pipeline.tasks.contamination import key, keys, shown_in
from stages.prepare import prepare

SAME = [
    ("What is 3 - 2?", "what is  3-2"),
    ("What is\xa03 - 2?", "Question: What is 3 \u2212 2 ?"),
    ("Find x.", "**Problem 3.** Find x"),
    ("Q: Find x.\nA:", "Find x"),
    ("Compute $\\dfrac{1}{2}+\\left(3\\right)$.", "compute \\frac{1}{2} + (3)"),
    ("He paid 1,000 dollars", "he paid 1000 dollars!"),
    ("\u201cHello,\u201d she said\u2014then left.", '"Hello" she said - then left'),
    ("x\xb2 + 1", "x^2+1"),
    ("A well-known 5-year plan", "a well known 5 year plan"),
    ("## Problem\nWhat is it", "what is it"),
    ("12. Find the sum", "Find the sum"),
    ("\uff37\uff48\uff41\uff54 is \uff12\uff0b\uff12", "what is 2+2"),
    ("(x, y) and f(x,y)", "(x,y) and f(x, y)"),
    ("1\xbd cups", "1 1/2 cups"),
    ("Question 3: Problem: what is 2+2", "Question 4: what is 2+2"),
    ("zero\u200bwidth", "zerowidth"),
    ("f\u2019(x)", "f'(x)"),
    ("Stra\xdfe", "STRASSE"),
    ("What is *this* and **that**?", "what is this and that"),
    ("Don\u2019t go", "don't go"),
    ("A: 5", "A:5"),
    ("Question What is 5?\n", "question what is 5"),
    ("[Question] What is 5?", "what is 5"),
    ("<question>What is 5?</question>", "what is 5"),
    ("Question 2 \u2013 What is 5?", "what is 5"),
    ("Find $x^{2}+a_{1}$", "find x^2 + a\u2081"),
    ("Find \\(x\\) with \\[x = 1\\]", "Find $x$ with $$x = 1$$"),
    ("Solve \\(x = 1\\)", "Solve $x = 1$"),
]
OTHER = [
    ("3 - 2", "3 + 2"),
    ("x<y", "x>y"),
    ("3-2", "32"),
    ("12 3", "1 23"),
    ("1.5", "15"),
    ("10\xb2", "102"),
    ("1\xbd", "11/2"),
    ("5!", "5"),
    ("f'(x)", "f(x)"),
    ("50%", "50"),
    ("2*(3+4)", "2*3+4"),
    ("(0,1)", "[0,1]"),
    ("3*4", "3 4"),
    ("-3", "3"),
    ("sin(x)-cos(x)", "sin(x)cos(x)"),
    ("f(1,2)", "f(12)"),
    ("x-y", "xy"),
    ("3:4", "34"),
    ("2/3", "23"),
    ("2**3", "2 3"),
    ("x_1", "x1"),
    ("a != b", "a = b"),
    ("a\u2264b", "a<b"),
    ("A\\B", "AB"),
    ("Question 3.5 is", "Question 4.5 is"),
    ("x \u2260 y", "x = y"),
    ("3\u22122", "3+2"),
    ("5 - cos x", "5 cos x"),
    ("Problem: 3 - 2?", "Problem: 3 + 2?"),
    ("|x|", "x"),
    ("\u2200x", "\u2203x"),
    ("1012_3", "1012_5"),
    (".5", "5"),
    ("n!", "n"),
    ("x^{12}", "x^1 2"),
    ("Task - 5", "5"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_problem_written_otherwise_is_the_same(one, other):
    assert key(one) == key(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_a_number_an_operator_or_a_bracket_makes_another_problem(one, other):
    assert key(one) != key(other)


def test_a_text_without_letters_is_compared_as_it_is():
    assert key("???") == key("? ??") != key("!")
    assert key("Question:") != key("Problem:")


SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "What is 3 - 2?"}
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi!"}]
GO_ON = {"role": "user", "content": "Go on."}
LENGTHY = {"role": "user", "content": "How many trees stand in a park of 12 rows with 7 each?"}


def conversation(*messages):
    return keys(messages, "\n\n".join(x["content"] for x in messages))


def test_a_conversation_is_its_last_question_or_all_of_it():
    assert conversation(SYSTEM, ASKED) & conversation(ASKED)
    assert conversation(*HI, LENGTHY) & conversation(LENGTHY)
    assert conversation(*HI, GO_ON) == conversation(*HI, GO_ON)
    assert not conversation(*HI, GO_ON) & conversation(ASKED, HI[1], GO_ON)
    assert not conversation(*HI, GO_ON) & conversation(GO_ON)


def lines(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def mathematics(tmp_path, own, held, instruction="Go.", **counts):
    """The prepared rows by split, and the counts, of sets in files of their own."""
    sets = {}
    for name, found, splits in (("own", own, ["train", "dev"]), ("held-out", held, ["test"])):
        lines(tmp_path / f"{name}.jsonl", [{"problem": p, "answer": a} for p, a in found])
        sets[name] = {"file": f"{name}.jsonl", "format": "math-500", "splits": splits}
    values = {"task": "math", "seed": 1, "folder": str(tmp_path), "sets": sets}
    values |= {"instruction": instruction, "train": 1, "dev": 1, "test": len(held)} | counts
    told = {}
    found = list(prepare(math.Prepare.model_validate_json(json.dumps(values)), told))
    return {x["prompt"]: x["split"] for x in found}, told


HELD = ("What is 3 - 2?", "1")
OWN = [("What is 3 + 2?", "5"), ("What is 4 - 2?", "2")]


@pytest.mark.parametrize(
    "leak",
    [
        "What is  3 - 2?", "what is 3 - 2?", "What is 3\u00a0- 2?", "Question: What is 3 - 2?",
        "What is 3 - 2", "What is 3 \u2212 2 ?",
        "**Problem 7.** What is $3-2$?", "Q: What is 3-2?\nA:",
    ],
)  # fmt: skip
def test_what_tests_is_never_trained_on_however_it_is_written(tmp_path, leak):
    found, counts = mathematics(tmp_path, [(leak, "1"), *OWN], [HELD])
    assert found["What is 3 - 2?"] == "test"
    assert sorted(found) == sorted(["What is 3 - 2?", OWN[0][0], OWN[1][0]])
    assert counts["leaks_train"] == counts["leaks_dev"] == 1
    with pytest.raises(UserError, match=r"found 2, wanted at most 1: .*\(1 rows are problems of a"):
        mathematics(tmp_path, [(leak, "1"), *OWN], [HELD], train=2)


def test_repeats_within_a_split_are_left_out_and_counted(tmp_path):
    found, counts = mathematics(tmp_path, [*OWN, ("what is 3+2 ?", "5.0")], [HELD])
    assert "what is 3+2 ?" not in found
    assert (counts["repeats_dev"], sum(counts.values())) == (1, 2)  # a row of train, too


def test_one_problem_with_two_golds_in_a_set_is_refused_with_both_rows(tmp_path):
    said = (
        r"prepare.sets.own: the problem 'what is 3\+2 \?' has the golds "
        r"'5' \(.*own.jsonl, line 1\) "
        r"and '6' \(.*own.jsonl, line 3\), wanted one answer"
    )
    with pytest.raises(UserError, match=said):
        mathematics(tmp_path, [*OWN, ("what is 3+2 ?", "6")], [HELD])


def test_golds_that_are_one_number_written_twice_are_equal(tmp_path):
    own = [("Half of 1?", "1/2"), ("half of 1", "\\frac{1}{2}"), ("Half of  1?", "0.5"), *OWN]
    found, _ = mathematics(tmp_path, own, [HELD])
    assert len(found) == 3


def test_two_sets_that_disagree_are_named_and_the_one_that_trains_is_left_out(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    found, counts = mathematics(tmp_path, [("what is 3-2", "7"), *OWN], [HELD])
    assert "what is 3-2" not in found
    assert (counts["leaks_train"], counts["unequal_golds"]) == (1, 1)
    assert "two sets disagree: the problem" in caplog.text
    assert "own.jsonl, line 1" in caplog.text
    assert "held-out.jsonl, line 1" in caplog.text


def test_a_test_problem_in_the_instruction_is_a_warning(tmp_path, caplog):
    few = "Q: what is 3-2\nA: 1\nNow yours:"
    _, counts = mathematics(tmp_path, OWN, [HELD, ("What is 9 + 9?", "18")], instruction=few)
    assert counts["test_in_instruction"] == 1
    assert "prepare.instruction: it shows the test problem 'What is 3 - 2?'" in caplog.text
    assert "9 + 9" not in caplog.text


def test_a_problem_is_shown_only_as_a_whole():
    assert shown_in("3+2?", key("Say 13+25, then 3 + 2."))
    assert not shown_in("3+2?", key("Say 13+25."))
    assert not shown_in("Why?", key("Say why."))


def test_code_with_one_test_is_no_contradiction_and_with_two_it_is(tmp_path):
    def rows(*found):
        made = [{"prompt": p, "test": t, "entry_point": "f"} for p, t in found]
        lines(tmp_path / "code.jsonl", made)
        values = {
            "task": "code", "seed": 1, "folder": str(tmp_path), "instruction": "Go.", "train": 1,
            "dev": 1, "test": 1,
            "sets": {"own": {"file": "code.jsonl", "splits": ["train", "dev", "test"]}},
        }  # fmt: skip
        return load(code.Prepare.model_validate_json(json.dumps(values)))

    others = [("def f(x): 'two'", "b"), ("def f(x): 'three'", "c")]
    task = rows(("def f(x):\n  'one'", "a"), ("def f(x): 'one'", "a"), *others)
    assert len(list(task.problems(1))) == 3
    assert sum(task.dropped.values()) > 0
    task = rows(("def f(x):\n  'one'", "a"), ("def f(x): 'one'", "z"), *others)
    with pytest.raises(UserError, match=r"line 1.*line 2.*wanted one answer to one problem"):
        list(task.problems(1))


def test_a_conversation_that_tests_is_not_trained_on_under_another_system_prompt(tmp_path):
    found = [{"messages": [SYSTEM, ASKED]}, {"prompt": "what is 3-2"}, {"prompt": "Name a metal."}]
    lines(tmp_path / "x.jsonl", found)
    for seed in range(4):
        values = {"task": "prompts", "seed": seed, "file": str(tmp_path / "x.jsonl"), "test": 1}
        p = prompts.Prepare.model_validate_json(json.dumps(values | {"train": 1}))
        drawn = [x.prompt for x in load(p).problems(seed)]
        assert len([x for x in drawn if "metal" in x]) == 1


def test_prompts_of_one_split_are_one_only_if_their_texts_are_equal(tmp_path):
    lines(tmp_path / "x.jsonl", [{"prompt": "8+5?"}, {"prompt": "8+5 ?"}, {"prompt": "8+5?"}])
    p = prompts.Prepare(task="prompts", seed=0, file=str(tmp_path / "x.jsonl"), train=2)
    task = load(p)
    assert {x.prompt for x in task.problems(0)} == {"8+5?", "8+5 ?"}
    assert task.dropped == {"repeats_train": 1}


@pytest.mark.parametrize("text", [" ", "\n", "_a ", "* a", "1,", "question: ", "a:", "</a", "# "])
def test_a_long_text_is_read_in_time_proportional_to_its_length(text):
    start = time.process_time()
    key(text * 20_000)
    assert time.process_time() - start < 5  # where it is not, half a minute
