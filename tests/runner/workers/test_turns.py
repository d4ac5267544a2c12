"""Who has a place on the workers, and who waits for it at the head."""

import contextlib
import threading

import pytest

from pipeline.processes.subprocesses import Stopped
from pipeline.runner.cell_graph import Cell
from pipeline.runner.workers import turns
from pipeline.runner.workers.turns import Turns
from tests.telling import wait_for


def cell(name: str) -> Cell:
    return Cell(name, name, frozenset())


def of(places: int) -> Turns:
    return Turns(lambda _, running: len(running) < places)


def waits(found: Turns, name: str) -> bool:
    said: list[str] = []
    done = threading.Event()

    def wait() -> None:
        with contextlib.suppress(Stopped):
            found.wait(name, lambda: said.append(name))
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    wait_for(lambda: bool(said) or done.is_set())
    return bool(said)


def test_one_cell_waits_for_each_place_and_has_it_when_a_worker_is_done() -> None:
    found = of(1)
    assert [found.takes(cell(name), 3) for name in "abc"] == [True, True, False]
    assert [waits(found, name) for name in "ab"] == [False, True]
    found.brought("a")  # the head still reads it through
    assert not waits(found, "b")
    assert found.takes(cell("c"), 3)
    found.ended("a")
    assert waits(found, "c")
    found.ended("b")  # that DVC restored, so that no worker had it
    found.look()
    assert not waits(found, "c")


def test_what_follows_a_cell_comes_before_those_with_less_to_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = of(1)
    assert found.takes(cell("a"), 9)
    assert found.takes(cell("last"), 2)
    assert found.takes(cell("b"), 8)  # beside one that waits with less to follow
    found.brought("a")
    assert not waits(found, "b")
    found.ended("a")
    found.brought("b")
    assert waits(found, "last")  # the place is kept for what reads b
    found.ended("b")
    assert found.takes(cell("c"), 7)
    assert not waits(found, "c")
    found.brought("c")
    monkeypatch.setattr(turns, "SOON_SECONDS", 0)  # but not for ever
    found.look()
    assert not waits(found, "last")


def test_who_waits_hears_of_a_place_and_of_the_end() -> None:
    found = of(1)
    heard: list[str] = []

    def wait(name: str) -> None:
        try:
            found.wait(name)
            heard.append(name)
        except Stopped:
            heard.append("stopped")

    for name in "abc":
        assert found.takes(cell(name), 1)
        threads = [threading.Thread(target=wait, args=[name], daemon=True)]
        threads[0].start()
        if name == "b":
            found.brought("a")
            wait_for(lambda: "b" in heard)
    found.stop()
    threads[0].join(10)
    assert heard == ["a", "b", "stopped"]


def test_another_try_wants_a_place_again() -> None:
    found = of(1)
    assert found.takes(cell("a"), 1)
    assert found.takes(cell("b"), 1)
    found.brought("a")
    assert not waits(found, "b")
    assert waits(found, "a")
    found.brought("b")
    assert not waits(found, "a")


def test_without_workers_nothing_is_started() -> None:
    assert not of(0).takes(cell("a"), 1)
