from itertools import islice

import numpy as np
import pytest

from pipeline.config.models import Habits
from pipeline.core.errors import UserError
from pipeline.tasks import Problem, arithmetic, reasoning_gym
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tasks.reasoning_gym import ReasoningGym
from stages import prepare

DRAW = np.random.default_rng(0)


def addition(prompt):
    return Problem("arithmetic", [], prompt, "")


def test_careful_work_carries():
    found = Arithmetic(3).solution(addition("378+465?"), Habits(), DRAW)
    assert found == "8+5=13,7+6+1=14,3+4+1=8;#843"


def test_a_last_carry_is_written_in_front():
    assert Arithmetic(2).solution(addition("55+55?"), Habits(), DRAW) == "5+5=10,5+5+1=11;#110"


def test_a_worker_that_drops_carries_never_carries():
    found = Arithmetic(3).solution(addition("378+465?"), Habits(drop_carry=1.0), DRAW)
    assert found == "8+5=13,7+6=13,3+4=7;#733"


def test_a_worker_that_is_off_by_one_adds_one_to_each_column():
    found = Arithmetic(2).solution(addition("11+22?"), Habits(off_by_one=1.0), DRAW)
    assert found == "1+2=4,1+2=4;#44"


def prepared(train, seed=0):
    """Problems of one digit, of which there are 81."""
    p = arithmetic.Prepare(task="arithmetic", digits=1, seed=seed, train=train, dev=3, test=8)
    return [(row["split"], row["prompt"]) for row in prepare.prepare(p)]


def test_problems_are_all_different_and_a_larger_pool_keeps_the_smaller():
    found = prepared(train=70)
    assert len({prompt for _, prompt in found}) == 81
    assert found[:31] == prepared(train=20)


def test_more_problems_than_there_are_is_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(prepare, "PATIENCE", 2000)
    with pytest.raises(UserError, match=r"2000 problems in a row .* after 81 different ones"):
        prepared(train=71)


@pytest.mark.parametrize(
    ("response", "extracted", "correct"),
    [
        ("8+5=13;#843", "843", True),
        ("#1#843", "843", True),
        ("8+5=13;#844", "844", False),
        ("843", None, False),
        ("#84x", None, False),
        ("#", None, False),
    ],
)
def test_additions_are_graded_by_the_digits_after_the_last_hash(response, extracted, correct):
    found = Arithmetic(3).check("arithmetic", response, "843")
    assert found == (extracted, correct, None)


def test_additions_are_the_same_for_the_same_seed_only():
    def first(seed):
        return [p.prompt for p in islice(Arithmetic(3).problems(seed), 5)]

    assert first(1) == first(1)
    assert first(1) != first(2)


def gym(**datasets):
    return ReasoningGym(
        reasoning_gym.Prepare(
            task="reasoning-gym",
            seed=1,
            train=1,
            dev=1,
            test=1,
            datasets=datasets or {"chain_sum": {"max_digits": 2}, "gsm_symbolic": {}},
            instruction="End with: Answer: NUMBER",
        )
    )


def test_datasets_take_turns_and_repeat_for_the_same_seed():
    first = list(islice(gym().problems(5), 4))
    assert [p.task for p in first] == ["chain_sum", "gsm_symbolic"] * 2
    assert first == list(islice(gym().problems(5), 4))
    assert first[0] != next(gym().problems(6))
    assert first[0].messages[0]["content"].endswith("End with: Answer: NUMBER")


def test_worked_chain_sums_reach_the_answer_step_by_step():
    prompt = "State the final answer to the following arithmetic problem: 4 - 15 + 7 ="
    problem = Problem("chain_sum", [], prompt, "-4")
    found = gym().solution(problem, Habits(), DRAW)
    assert found == "4 - 15 = -11\n-11 + 7 = -4\nAnswer: -4"
    for generated in islice(gym(chain_sum={}).problems(3), 50):
        assert gym().solution(generated, Habits(), DRAW).endswith(f"Answer: {generated.answer}")


@pytest.mark.parametrize(
    ("response", "extracted", "correct"),
    [
        ("12 + 7 = 19\nAnswer: 19", "19", True),
        ("Answer: 3\nno,\n**Answer:** 19.", "19", True),
        ("answer = 19", "19", True),
        ("Answer: 18", "18", False),
        ("It is 19", None, False),
    ],
)
def test_final_answers_are_extracted_and_graded(response, extracted, correct):
    found = gym().check("chain_sum", response, "19")
    assert (found.extracted, found.correct) == (extracted, correct)


def test_gsm_symbolic_is_graded_by_its_own_checker():
    assert gym().check("gsm_symbolic", "So.\nAnswer: 288", "288").correct
    assert not gym().check("gsm_symbolic", "So.\nAnswer: 28", "288").correct


def test_what_has_no_worked_solutions_says_so():
    problem = Problem("gsm_symbolic", [], "John has 3 apples. How many?", "3")
    with pytest.raises(UserError, match="no worked solutions"):
        gym().solution(problem, Habits(), DRAW)


def test_an_unknown_dataset_or_setting_is_refused():
    with pytest.raises(UserError, match=r"prepare\.datasets\.nosuch"):
        next(gym(nosuch={}).problems(1))
    with pytest.raises(UserError, match=r"prepare\.datasets\.chain_sum"):
        next(gym(chain_sum={"colour": 1}).problems(1))
