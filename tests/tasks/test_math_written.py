"""Answers as people and models write them are graded right; a gold that cannot be is refused."""

import json
import logging
import time

import pytest

from pipeline.core.errors import UserError
from pipeline.tasks import Problem, math
from stages.prepare import prepare
from tests.project import ROOT
from tests.tasks.test_math import task

ROWS = [
    line.replace("⏎", "\n").split(" ||| ")
    for line in (ROOT / "tests/answers_written.txt").read_text().splitlines()
    if not line.startswith("# ")  # a gold may begin with ####
]
SECONDS = 300  # for 300 answers by math-verify alone; 13 on two busy cores


@pytest.fixture(scope="module")
def patient():
    return task()


def alone(gold, response):
    """math-verify as its README uses it: both texts whole, the gold as LaTeX."""
    import math_verify

    text = gold.rpartition("####")[2].strip()
    wanted = math_verify.parse(text if "$" in text else f"${text}$", parsing_timeout=None)
    found = math_verify.parse(response, parsing_timeout=None)
    return math_verify.verify(wanted, found, timeout_seconds=None)


def test_there_are_hundreds_of_written_answers_right_and_wrong():
    assert len(ROWS) > 600
    assert sum(verdict == "1" for *_, verdict in ROWS) > 250
    assert sum(verdict == "0" for *_, verdict in ROWS) > 200


@pytest.fixture(scope="module")
def wrong(patient):
    """The written answers that are not graded as they should be."""
    return [
        (gold, response, verdict)
        for gold, response, verdict in ROWS
        if patient.check("own", response, gold).correct != (verdict == "1")
    ]


def test_every_written_answer_is_graded_right(wrong):
    assert wrong == []


def test_math_verify_alone_is_right_nowhere_where_the_grader_is_wrong(wrong):
    logging.disable()
    begun, better, worse = time.monotonic(), 0, []
    for row in map(tuple, ROWS[::2]):
        theirs = alone(*row[:2]) == (row[2] == "1")
        better += row not in wrong and not theirs
        if theirs and row in wrong:
            worse.append(row)
    logging.disable(logging.NOTSET)
    assert worse == []
    assert better > 30  # else the comparison compares nothing
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize("gold", ["\\frac{1}{2", "#### ", "\\boxed{}", "1" * 1001])
def test_a_gold_that_does_not_grade_itself_right_is_refused(patient, gold):
    with pytest.raises(UserError, match="grades itself wrong and 'zebra' wrong, wanted right"):
        patient.prove(Problem("own", [], "How many?", gold))


def test_a_gold_that_a_wrong_answer_equals_is_refused(patient):
    with pytest.raises(UserError, match="grades itself right and 'zebra' right"):
        patient.prove(Problem("own", [], "Which animal?", "Zebra"))


def rows(folder, *answers):
    lines = [json.dumps({"problem": f"Problem {i}?", "answer": x}) for i, x in enumerate(answers)]
    (folder / "own.jsonl").write_text("\n".join(lines))
    values = task().prepare.model_dump() | {
        "test": len(answers) - 2,
        "folder": str(folder),
    }
    values["sets"]["own"]["splits"] = ("train", "dev", "test")
    return math.Prepare.model_validate(values)


def test_golds_from_numbers_and_solutions_are_values(tmp_path, patient):
    found = list(prepare(rows(tmp_path, 5e-05, 1e22, 72, "9 * 8 = <<9*8=72>>72\n#### 72")))
    golds = {row["prompt"]: row["answer"] for row in found}
    assert golds["Problem 3?"] == "72"
    for i, answer in enumerate(["0.00005", "10^{22}", "72.0", "72"]):
        gold = golds[f"Problem {i}?"]
        assert patient.check("own", f"\\boxed{{{answer}}}", gold).correct
        assert not patient.check("own", f"\\boxed{{-{answer}}}", gold).correct


def test_prepare_refuses_a_gold_that_does_not_grade_itself_right(tmp_path):
    with pytest.raises(UserError, match=r"own: the answer .* grades itself wrong"):
        list(prepare(rows(tmp_path, "1", "2", "\\frac{1}{2")))
