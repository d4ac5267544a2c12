"""Answers that are cut before they have the student tokens that are wanted: drawn again."""

import dataclasses
import logging

import pytest

from pipeline.core.errors import UserError
from pipeline.teachers.purchase.buyer import SHORT
from pipeline.teachers.purchase.truncation import lacking
from tests.providers import Batches, Scripted, ask, judging, message, response
from tests.teachers.purchase.test_cut import STUDENT

pytestmark = pytest.mark.usefixtures("quick")
providers = pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
ENOUGH = "abcdefghijkl"


def wanting(provider, url, store, tmp_path, tokens=10, **more):
    """A teacher whose answers have to be `tokens` letters long, as the student has them."""
    run = judging(provider, url, store, tmp_path, **more)
    run.lacking = lacking(run.teacher, STUDENT, tokens)
    return run


def said(provider, text, finish="length"):
    return (200, message(provider, [text], finish), {})


def stored(store):
    """Attempt and failure of every row."""
    rows = [found for chunk in store.rows.ordered() for found in chunk]
    return [(found.attempt, found.text, found.failure) for found in rows]


@providers
def test_an_answer_too_short_is_kept_with_its_reason_and_drawn_again(
    provider, store, tmp_path, caplog
):
    caplog.set_level(logging.WARNING, "omniopd")
    with Scripted(provider, [said(provider, "1"), said(provider, ENOUGH)]).running() as server:
        run = wanting(provider, server.url, store, tmp_path)
        found = ask(run)[0, 0]
        assert (found.text, found.attempt, found.failure) == (ENOUGH, 1, None)
        assert stored(store) == [(0, "1", SHORT), (1, ENOUGH, None)]
        assert run.ledger.failures == {SHORT: 1}
        again = wanting(provider, server.url, store, tmp_path)
        assert ask(again)[0, 0] == found
        assert (again.ledger.bought, again.ledger.failures) == (0, {SHORT: 1})
    assert len(server.requests) == 2
    (told,) = [text for text in caplog.messages if SHORT in text][:1]
    assert "at position 0 of r0" in told
    assert "student tokens long, wanted 10" in told


def test_one_that_ended_by_itself_may_be_as_short_as_it_likes(store, tmp_path):
    with Scripted("anthropic", [said("anthropic", "1", "stop")]).running() as server:
        assert ask(wanting("anthropic", server.url, store, tmp_path))[0, 0].text == "1"
    assert stored(store) == [(0, "1", None)]


def test_when_all_attempts_are_too_short_row_key_and_what_helps_are_named(store, tmp_path):
    with Scripted("anthropic", [said("anthropic", "1")] * 9).running() as server:
        run = wanting("anthropic", server.url, store, tmp_path)
        with pytest.raises(
            UserError, match=r"failed 3 times \(failed-short: its 3 tokens"
        ) as error:
            ask(run)
    last = str(error.value)
    for words in ("position 0, sample 0 of r0", "wanted 10", "forks.chunk_tokens", "last request "):
        assert words in last
    key = last.partition("last request ")[2][:12]
    rows = [found for chunk in store.rows.ordered() for found in chunk]
    assert [found.key[:12] for found in rows if found.attempt == 2] == [key]
    assert len(server.requests) == 3  # and nothing else of the cell was bought for it


def test_a_row_of_before_that_is_too_short_is_drawn_again_and_no_longer_blocks(store, tmp_path):
    script = [said("anthropic", "1"), said("anthropic", ENOUGH)]
    with Scripted("anthropic", script).running() as server:
        old = ask(judging("anthropic", server.url, store, tmp_path))[0, 0]
        assert stored(store) == [(0, "1", None)]  # as it was kept when nothing looked
        found = ask(wanting("anthropic", server.url, store, tmp_path))[0, 0]
    assert (found.text, found.attempt) == (ENOUGH, 1)
    assert stored(store)[0] == (0, old.text, None)  # the row is as it was


def test_a_row_too_short_for_one_cell_serves_another_that_wants_less(store, tmp_path):
    script = [said("anthropic", "abcd"), said("anthropic", ENOUGH)]
    with Scripted("anthropic", script).running() as server:
        ask(wanting("anthropic", server.url, store, tmp_path))
        found = ask(wanting("anthropic", server.url, store, tmp_path, tokens=4))[0, 0]
    assert (found.text, found.attempt, found.failure) == ("abcd", 0, None)
    assert len(server.requests) == 2


def test_a_batch_draws_what_is_too_short_again(store, tmp_path):
    class Terse(Batches):
        def results(self, number):
            text = "1" if number == 0 else ENOUGH
            return [(key, "ok", message("anthropic", [text])) for key in self.batches[number]]

    with Terse("anthropic").running() as server:
        run = wanting("anthropic", server.url, store, tmp_path, transport="batch")
        assert ask(run)[0, 0].text == ENOUGH
    assert len(server.batches) == 2
    assert run.ledger.failures == {SHORT: 1}


def test_one_answer_to_equal_prefixes_can_be_too_short_for_one_of_them_alone(store, tmp_path):
    with Scripted("anthropic").running() as server:
        run = judging("anthropic", server.url, store, tmp_path)
        run.lacking = lambda r, _, j: "a token" if (r.id, j.attempt) == ("r1", 0) else None
        one = response(run, ["8+5="])
        found = run.judge([one, dataclasses.replace(one, id="r1")])
    assert [found[r, 0, 0].attempt for r in range(2)] == [0, 1]
    assert [failure for _, _, failure in stored(store)] == [None, None]
    assert len(server.requests) == 2
