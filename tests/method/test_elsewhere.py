"""Forks that an engine's own entropies would have chosen, counted against the exact ones."""

import numpy as np
import pytest

from pipeline.method.elsewhere import Seen, elsewhere, gaps

PARAMS = "forks: {scheduler: peak-entropy, max_forks: 2, chunk_tokens: 2, continuations: 4}\n"


def decode(ids):
    return "".join(chr(97 + i) for i in ids)


def seen(exact, engine, text=None):
    ids = list(range(len(exact)))
    return Seen(ids, text or decode(ids), np.array(exact), np.array(engine))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)


def test_equal_rankings_choose_equal_forks_however_far_the_values_are_apart():
    found = elsewhere([seen([3, 1, 2, 0, 1], [1.5, 0.5, 1, 0, 0.5])], decode)
    assert (found["engine_forks"], found["engine_forks_elsewhere"]) == (2, 0)
    assert found["engine_entropy_below_mean"] == pytest.approx(3.5 / 5)
    assert (found["engine_forks_max"], found["engine_forks_chunk_tokens"]) == (2, 2)


def test_a_fork_that_the_engine_ranks_elsewhere_is_counted():
    # exact: 0, then 2 as 1 is too near; the engine: 3, then 1; of the second response one moves
    both = [seen([3, 1, 2, 0, 1], [0, 2, 0, 3, 0]), seen([3, 0, 0, 2, 0], [3, 0, 2, 0, 0])]
    found = elsewhere(both, decode)
    assert (found["engine_forks"], found["engine_forks_elsewhere"]) == (4, 3 / 4)


def test_no_fork_is_counted_inside_a_character_or_where_none_fits():
    inside = seen([1, 2, 3, 1, 0], [1, 2, 3, 1, 0], text="aXcde")  # only 0 and 1 are prefixes
    found = elsewhere([inside, seen([5.0], [5.0])], decode)
    assert found["engine_forks"] == 1
    assert elsewhere([], decode)["engine_forks_elsewhere"] == 0


def test_the_gap_is_the_mean_and_the_largest_distance_over_all_tokens():
    found = gaps([[-1.0, -2.0], [-0.5]], [np.array([-1.25, -1.5]), np.array([-0.5])])
    assert found == {"engine_gap_mean": 0.25, "engine_gap_max": 0.5}
