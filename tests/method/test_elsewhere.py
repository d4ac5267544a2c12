"""An engine's values beside exact ones: gaps, forks that lie elsewhere, rows that are checked."""

import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.method.elsewhere import Seen, Values, chosen, compared, refuse_far

PARAMS = "forks: {scheduler: peak-entropy, max_forks: 2, chunk_tokens: 2, continuations: 4}\n"


def decode(ids):
    return "".join(chr(97 + i) for i in ids)


def seen(exact, engine, text=None, logps=None):
    ids = list(range(len(exact)))
    ours, theirs = logps or (exact, engine)
    both = (Values(np.array(ours), np.array(exact)), Values(np.array(theirs), np.array(engine)))
    return Seen(ids, text or decode(ids), *both)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)


def test_equal_rankings_choose_equal_forks_however_far_the_values_are_apart():
    found = compared([seen([3, 1, 2, 0, 1], [1.5, 0.5, 1, 0, 0.5])], decode)
    assert (found["engine_forks"], found["engine_forks_elsewhere"]) == (2, 0)
    assert (found["engine_forks_max"], found["engine_forks_chunk_tokens"]) == (2, 2)


def test_a_fork_that_the_engine_ranks_elsewhere_is_counted():
    # exact: 0, then 2 as 1 is too near; the engine: 3, then 1; of the second response one moves
    both = [seen([3, 1, 2, 0, 1], [0, 2, 0, 3, 0]), seen([3, 0, 0, 2, 0], [3, 0, 2, 0, 0])]
    found = compared(both, decode)
    assert (found["engine_forks"], found["engine_forks_elsewhere"]) == (4, 3 / 4)


def test_no_fork_is_counted_inside_a_character_or_where_none_fits():
    inside = seen([1, 2, 3, 1, 0], [1, 2, 3, 1, 0], text="aXcde")  # only 0 and 1 are prefixes
    found = compared([inside, seen([5.0], [5.0])], decode)
    assert found["engine_forks"] == 1
    assert compared([], decode)["engine_forks_elsewhere"] == 0


def test_the_gap_is_the_mean_and_the_largest_distance_over_all_tokens(tmp_path):
    (tmp_path / "params.yaml").write_text("runtime: {}\n")  # no forks, and none are counted
    two = seen([2.0, 1.0], [2.0, 3.0], logps=([-1.0, -2.0], [-1.25, -1.5]))
    assert compared([two, seen([1.0], [1.0], logps=([-0.5], [-0.5]))], decode) == {
        "engine_gap_mean": 0.25,
        "engine_gap_max": 0.5,
        "engine_entropy_gap_mean": 2 / 3,
        "engine_entropy_gap_max": 2.0,
    }


@pytest.mark.parametrize(
    ("total", "samples", "count"),
    [(3, 1, 3), (8, 4, 4), (80, 4, 4), (81, 3, 5), (640, 4, 32), (10_000, 8, 32), (48, 48, 4)],
)
def test_one_row_in_twenty_is_checked_and_at_least_4_and_at_most_32(total, samples, count):
    rows = chosen(total, samples, 0, "rollout-check", 1)
    assert len(rows) == len(set(rows)) == count
    assert rows == sorted(rows) == chosen(total, samples, 0, "rollout-check", 1)
    assert max(rows) < total
    assert len({row // samples for row in rows}) == -(-count // samples)  # of few prompts
    if total > 100:
        assert rows != chosen(total, samples, 0, "rollout-check", 2)


NEAR = dict.fromkeys(
    ("engine_gap_mean", "engine_gap_max", "engine_entropy_gap_mean", "engine_entropy_gap_max"), 1e-4
)


@pytest.mark.parametrize(
    ("name", "value"),
    [("engine_gap_mean", 3e-4), ("engine_entropy_gap_max", 0.1), ("engine_gap_max", np.nan)],
)
def test_an_engine_that_is_off_by_more_than_rounding_is_refused(name, value):
    refuse_far(NEAR, 4, "float32")
    what = "entropies" if "entropy" in name else "log-probabilities"
    with pytest.raises(UserError, match=rf"its {what} .* over 4 responses, wanted .*exact: pass"):
        refuse_far(NEAR | {name: value}, 4, "float32")
    if value < 1:
        refuse_far(NEAR | {name: value}, 4, "bfloat16")
    with pytest.raises(UserError, match=r"at most 0\.05 and inf in bfloat16"):
        refuse_far(NEAR | {"engine_gap_mean": 0.06}, 4, "bfloat16")
