"""The final answer is found, compared by math-verify, and no answer holds the grader up."""

import os
import time
from pathlib import Path

import psutil
import pytest

from pipeline.core.errors import UserError
from pipeline.tasks import math
from pipeline.tasks.math import grader
from tests.answers_hostile import GOLD, GOOD, hostile

LIMIT = 0.2  # seconds for an answer: short, as dozens of these use it up
OWNED = Path("/tmp/omniopd-owned")


def task(seconds=20.0):
    values = {
        "task": "math",
        "seed": 1,
        "train": 1,
        "dev": 1,
        "test": 1,
        "folder": ".",
        "sets": {"own": {"file": "own.jsonl", "format": "math-500", "splits": ("test",)}},
        "instruction": "Go.",
        "timeout_seconds": seconds,
    }
    return math.load(math.Prepare.model_validate(values))


@pytest.fixture(scope="module")
def patient():
    return task()


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ("So $\\boxed{12}$.", ("12", None)),
        ("\\boxed{1} and then \\boxed{\\frac{1}{2}}", ("\\frac{1}{2}", None)),
        ("\\boxed{\\boxed{7}}", ("7", None)),
        ("\\boxed{\\{1, 2\\}}", ("\\{1, 2\\}", None)),
        ("\\boxed {5}", ("5", None)),
        ("\\fbox{5}", ("5", None)),
        ("Answer: 3\n\\boxed{4}", ("4", None)),  # a box wins
        ("\\boxed{4}\nAnswer: 3", ("4", None)),
        ("Answer: 3\nAnswer: 4.", ("4", None)),
        ("**Answer:** 73", ("73", None)),
        ("**Answer**: **73**", ("73", None)),
        ("Answer:\n\n73\n", ("73", None)),
        ("The final answer is 73.", ("73", None)),
        ("work\n#### 73\n", ("73", None)),
        ("#### 1\nAnswer: 2", ("2", None)),
        ("It is 73", (None, None)),
        ("", (None, None)),
        ("\\boxed{}", (None, None)),
        # a broken box never hides a complete one, and never goes by unseen
        ("\\boxed{12} or rather \\boxed{13", ("12", "malformed")),
        ("\\boxed{12} or rather \\boxed 13", ("12", "malformed")),
        ("\\boxed{1\\boxed{12}", ("12", None)),
        ("Answer: 12, so \\boxed{12", ("12, so \\boxed{12", "malformed")),
        ("\\boxed{13", (None, "malformed")),
        ("} \\boxed{5} {", ("5", None)),
    ],
)  # fmt: skip
def test_the_final_answer_is_the_last_complete_box_else_after_answer_else_after_hashes(
    response, wanted
):
    assert math.extract(response)[:2] == wanted


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("1/2", "0.5", True),
        ("\\frac{1}{2}", "\\frac12", True),
        ("2400", "2,400", True),
        ("18", "18 dollars", True),
        ("18", "\\$18", True),
        ("$2\\sqrt{3}$", "\\sqrt{12}", True),
        ("2, -2", "\\{-2, 2\\}", True),
        ("(1,2)", "(1, 2)", True),
        ("(1,2)", "(2,1)", False),
        ("\\text{east}", "\\text{East}", True),
        ("\\text{east}", "\\text{West}", False),
        ("x^2+2x+1", "(x+1)^2", True),
        ("5", "x=5", True),
        ("73", "**73**", True),
        ("204", "205", False),
        ("2", "2\\sqrt{3}", False),
        ("32,\\!348", "32348", True),
        ("32{,}348", "32,348", True),
        ("(1{,}000, 2)", "(1000, 2)", True),
        ("90^\\circ", "90", True),
        ("30, 150", "30°, 150°", True),
        ("90", "90°", True),
        ("90", "91°", False),
        ("\\$18.50", "18.5", True),
        ("5.4 \\text{ cents}", "5.4", True),
        ("15\\mbox{ cm}^2", "15", True),
        ("15", "15 cm^2", True),
        ("10", "\\text{10 cm}", True),
        ("\\text{June 20}", "June 20", True),
        ("\\text{4:45 a.m.}", "4:45 a.m.", True),
        ("\\text{(C)}", "C", True),
        ("\\text{(C)}", "\\textbf{(B)}", False),
        ("\\frac{\\sqrt3}2", "\\frac{\\sqrt{3}}{2}", True),
        # a letter is no unit
        ("2", "2 x", False),
        ("4", "4 pi", False),
        ("2 x", "2 y", False),
        ("5", "5 m", True),
    ],
)
def test_equal_answers_are_right_however_they_are_written(patient, gold, answer, correct):
    assert patient.check("own", f"Answer: {answer}", gold).correct == correct


@pytest.mark.parametrize("sign", ["\\%", "%", " \\%", " %", "\\,\\%", "\\ \\%", " percent"])
@pytest.mark.parametrize("number", ["50", "12.5", "\\frac{1}{3}"])
def test_a_percentage_is_right_with_and_without_its_sign(patient, number, sign):
    if sign == " percent" and "frac" in number:
        sign = "\\text{ percent}"
    for answer in (f"\\boxed{{{number}{sign}}}", f"Answer: {number}{sign}"):
        assert patient.check("own", answer, number).correct
        assert patient.check("own", answer, f"{number}\\%").correct
        assert not patient.check("own", answer, "60").correct
    assert patient.check("own", f"\\boxed{{{number}}}", number + sign).correct


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("50\\%", "0.5", True),
        ("50\\%", "\\frac{1}{2}", True),
        ("0.5", "50%", True),
        ("12.5\\%", "\\frac18", True),
        ("50\\%", "5000", False),
        ("50", "0.5", False),  # only a sign makes hundredths
        ("0.5", "50", False),
        ("50\\%", "0.5\\%", False),
        ("50", "$50\\%$", True),
        ("50", "\\(50\\%\\)", True),
        ("50", "50\\%.", True),
        ("10\\%, 20\\%", "10, 20", True),
        ("12", "\\text{12\\%}", True),
    ],
)
def test_a_percentage_equals_its_number_and_its_value_as_math_verify_has_it(
    patient, gold, answer, correct
):
    assert patient.check("own", f"\\boxed{{{answer}}}", gold).correct == correct


def test_what_cannot_be_graded_has_a_reason(patient):
    assert patient.check("own", "\\boxed{\\frac{}", "1").reason == "malformed"
    assert patient.check("own", "\\boxed{?!}", "1").reason == "unparsable"
    long = patient.check("own", "Answer: " + "1" * 2000, "1")
    assert (long.reason, len(long.extracted)) == ("too_long", 1000)
    both = patient.check("own", "\\boxed{1} \\boxed{", "1")
    assert (both.correct, both.reason) == (True, "malformed")


def test_two_hundred_hostile_answers_are_wrong_in_time_and_a_good_one_is_right_after_them():
    grader, answers, reasons = task(LIMIT), hostile(), {}
    assert len(answers) >= 200
    grader.check("own", GOOD.replace("1764", "42^2"), GOLD)
    for family, response in answers:
        before = time.monotonic()
        found = grader.check("own", response, GOLD)
        assert time.monotonic() - before < LIMIT + 20, (family, response[:80])  # a busy machine
        assert not found.correct, (family, response[:80])
        reasons.setdefault(found.reason, []).append((family, response[:60]))
    assert len(reasons["timeout"]) < len(answers) / 2  # of the others the reason is known
    assert {"timeout", "too_long", "malformed", "unparsable"} <= set(reasons)
    assert not OWNED.exists()
    grader._grader.timeout_seconds = 20.0
    assert grader.check("own", GOOD.replace("1764", "42^2"), GOLD).correct


def test_a_grader_that_is_killed_from_outside_is_replaced():
    grader = task()
    assert grader.check("own", "\\boxed{\\sqrt{4}}", "2").correct
    process = grader._grader._worker[0]
    os.kill(process.pid, 9)
    psutil.wait_procs([psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else [], 10)
    assert grader.check("own", "\\boxed{\\sqrt{4}}", "2") == ("\\sqrt{4}", False, "crashed")
    assert grader.check("own", "\\boxed{\\sqrt{4}}", "2").correct


def dies(pipe, seconds):
    os._exit(1)


def waits(pipe, seconds):
    time.sleep(60)


@pytest.mark.parametrize("started", [dies, waits])
def test_a_grader_that_does_not_start_says_so(monkeypatch, started):
    monkeypatch.setattr(grader, "serve", started)
    monkeypatch.setattr(grader, "START_SECONDS", 20.0 if started is dies else 0.2)
    with pytest.raises(UserError, match="math-verify did not start"):
        task().check("own", "\\boxed{\\sqrt{4}}", "2")


def test_the_memory_of_the_grader_is_limited():
    checker = task()
    checker.check("own", "\\boxed{\\sqrt{4}}", "2")
    process = psutil.Process(checker._grader._worker[0].pid)
    soft, hard = process.rlimit(psutil.RLIMIT_AS)
    assert grader.MEMORY < soft == hard < 3 * grader.MEMORY
