"""Datasets of reasoning-gym: which prove themselves, and that grading always comes to an end."""

import json
from itertools import islice

import pytest

from pipeline.core.errors import UserError
from pipeline.tasks import reasoning_gym
from pipeline.tasks.reasoning_gym.server import packed, unpacked
from stages import prepare
from tests.gym import ALL, documented, gym, swept, table


@pytest.fixture(autouse=True)
def short_look(request, monkeypatch):
    """Datasets are looked through for as long as in a run by the slow sweep alone."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(reasoning_gym, "LOOKED", 0.2)


@pytest.mark.slow
def test_every_dataset_is_swept_without_an_error_and_the_docs_have_the_table():
    assert len(ALL) == 105
    assert documented() == table({name: swept(name) for name in ALL})


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("chain_sum", "passes"),
        ("arc_1d", "passes"),
        ("word_ladder", "passes, with metadata"),
        ("mini_sudoku", "passes, with metadata"),
        ("arc_agi", "passes, with metadata"),
        ("prime_factorization", "passes"),
        ("graph_color", "refused: it has no answer of its own"),
        ("game_of_life_halting", "refused: its scorer calls 'True' right for 'False'"),
        (
            "list_functions",
            "refused: a problem is drawn from random numbers without a seed",
        ),
        ("acre", "refused: a problem is another one when read from a larger pool"),
    ],
)
def test_a_dataset_passes_or_is_refused_with_its_reason_as_the_docs_say(name, verdict):
    assert swept(name) == verdict
    assert f"| {name} | {verdict} |\n" in documented()


def test_prepare_refuses_a_dataset_by_name_before_the_first_row():
    task = gym(chain_sum={}, acre={}).prepare
    with pytest.raises(
        UserError, match=r"prepare\.datasets\.acre: problem .* Leave the dataset out"
    ):
        next(prepare.prepare(task))


def test_prepare_takes_the_problems_of_a_dataset_that_proves_itself():
    rows = list(prepare.prepare(gym(chain_sum={}).prepare))
    assert {row["task"] for row in rows} == {"chain_sum"}
    assert len({row["prompt"] for row in rows}) == len(rows) > 0


def test_a_problem_whose_own_answer_is_graded_wrong_refuses_the_dataset(monkeypatch):
    task = gym(chain_sum={})
    drawn = task.problems(3)
    next(drawn)
    monkeypatch.setattr(reasoning_gym, "finals", lambda response, gold: ["0.5"])
    with pytest.raises(UserError, match=r"chain_sum: its scorer calls its own answer wrong: '"):
        next(drawn)


def test_an_answer_on_which_a_scorer_raises_is_wrong_with_its_reason():
    found = gym(prime_factorization={}).check("prime_factorization", "Answer: zebra", "2")
    assert found == ("zebra", False, "raised")


def test_an_older_answer_without_the_metadata_that_its_scorer_wants_is_wrong():
    found = gym(word_sorting={}).check("word_sorting", "Answer: a, b", "a, b")
    assert found == ("a, b", False, "raised")


def test_metadata_travels_with_the_answer_and_keeps_its_kinds():
    problem = next(gym(arc_agi={}).problems(3))
    entry = reasoning_gym.entry_of(problem.answer)
    assert json.loads(problem.answer)["reasoning-gym"]
    assert isinstance(unpacked(entry["metadata"])["output"], tuple)
    assert reasoning_gym.entry_of('{"not": "ours"}') == {"answer": '{"not": "ours"}'}
    odd = {"a": (1, [2]), "b": {3: None}}
    assert unpacked(json.loads(json.dumps(packed(odd)))) == odd


def test_problems_are_the_same_whatever_the_hash_seed_of_the_process(monkeypatch):
    first = list(islice(gym(word_ladder={}).problems(3), 3))
    reasoning_gym.worker.cache_clear()
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert list(islice(gym(word_ladder={}).problems(3), 3)) == first


def test_a_scorer_that_does_not_come_back_is_stopped_and_the_next_answer_is_graded(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "SECONDS", 1.0)
    task = gym(countdown={}, chain_sum={})
    problem = next(task.problems(3))
    monkeypatch.setattr(reasoning_gym, "SECONDS", 1.0)
    hung = task.check("countdown", "Answer: 9**9**9**9", problem.answer)
    assert (hung.correct, hung.reason) in [(False, "timeout"), (False, "crashed")]
    monkeypatch.setattr(reasoning_gym, "SECONDS", 60.0)
    assert task.check("chain_sum", "Answer: 4", "4").correct


@pytest.mark.parametrize(
    ("response", "gold", "final"),
    [
        ("Answer:\n1 2\n3 4\nThat is it.", "1 2\n3 4", "1 2\n3 4"),
        ("**Answer:**\n```\n1 2\n3 4\n```\nDone", "1 2\n3 4", "1 2\n3 4"),
        ("Answer: 3\nI hope this helps", "3", "3"),
        ("Answer: 2\nno: the answer = 3.", "3", "3"),
        ("Answer: a.", "a.", "a."),
        ("It is 3", "3", None),
        ("Answer:", "3", None),
    ],
)
def test_a_final_answer_has_as_many_lines_as_the_datasets_own_or_stands_in_a_fence(
    response, gold, final
):
    found = reasoning_gym.finals(response, gold)
    assert final in found if final else not found
