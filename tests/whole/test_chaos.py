"""A sample of `make chaos`, and its counters with the guards switched off: each can rise."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from pipeline.data import parquet
from tests.chaos import buying, counted, damage, every, stages  # noqa: F401 - every registers them
from tests.chaos.counted import KINDS, Outcome, Place

STARTER = """
import contextlib, subprocess, sys, time
from pipeline.processes import reaper
with reaper.watched() if sys.argv[1] == "watched" else contextlib.nullcontext():
    subprocess.Popen(["sleep", "60"], start_new_session=True)
    print("started", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, request):
    return Place(tmp_path, random.Random(request.node.name))


@pytest.fixture
def project(small, monkeypatch):
    """The project whose files are damaged."""
    monkeypatch.setitem(stages.SHARED, "project", small)


def test_there_are_as_many_faults_as_promised():
    kinds = KINDS.values()
    assert sum(kind.count for kind in kinds) >= 1000
    assert len(kinds) >= 30
    assert min(kind.count for kind in kinds) >= 10
    assert sum(kind.count for kind in kinds if kind.running) >= 300
    assert sum(kind.count for kind in kinds if kind.flip) <= 500


@pytest.mark.parametrize("name", ["buyer-kill-sqlite", "sqlite-locked", "line-reset"])
def test_a_fault_in_a_purchase_does_no_harm(place, name):
    outcome = KINDS[name].inject(place)
    assert outcome.clean, outcome


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith(("flip", "zeroed"))])
def test_a_damaged_file_does_no_harm(place, name):
    for _ in range(5):
        outcome = KINDS[name].inject(place)
        assert outcome.clean, outcome
        for left in place.folder.iterdir():
            left.unlink()


# each counter with its guard switched off


@pytest.mark.usefixtures("project")
def test_without_checksums_other_values_are_read_in_silence(place, monkeypatch):
    monkeypatch.setattr(parquet, "opened", lambda path, **how: parquet.File(path, **how))
    silent = sum(damage.table(place, "answers", damage.flip).silent for _ in range(40))
    assert silent > 0


def test_without_claims_a_buyer_that_stood_still_buys_again(place):
    assert buying.stopped(place, None, ("claims",)).bought_twice > 0


def test_without_a_spool_what_arrives_at_a_locked_store_is_lost(place):
    assert buying.locked(place, 3.0, ("spool",)).lost > 0


def test_without_timeouts_a_line_that_says_nothing_hangs(place, monkeypatch):
    monkeypatch.setattr(buying, "HANG_SECONDS", 1.0)
    with buying.purchase(place, line="stall", stall=60.0, unguarded=("timeouts",)) as bought:
        assert bought.finish().hangs > 0


@pytest.mark.parametrize("how", ["watched", "alone"])
def test_without_a_reaper_a_killed_command_leaves_processes(place, how):
    command = [sys.executable, "-c", STARTER, how]
    process = subprocess.Popen(command, env=place.environment(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(place.left(5.0 if how == "watched" else 0.5)) == (how == "alone")


def test_what_does_nothing_hangs_and_what_is_busy_does_not():
    programs = ("import time; time.sleep(60)", "while True: pass")
    idle, busy = (psutil.Popen([sys.executable, "-c", program]) for program in programs)
    try:
        assert not counted.ended(idle, 1.5)
        busy.send_signal(signal.SIGSTOP)
        assert not counted.ended(busy, 1.5)
        busy.send_signal(signal.SIGCONT)
        threading.Timer(4, busy.kill).start()
        assert counted.ended(busy, 1.5)
    finally:
        for process in (idle, busy):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()


def test_an_outcome_is_clean_as_long_as_every_counter_is_0():
    assert Outcome(told=["something"]).clean
    for name in Outcome().counts():
        assert not Outcome(**{name: 1}).clean


def test_what_hangs_is_waited_for_no_longer_than_said():
    begin = time.monotonic()
    assert not counted.wait_until(lambda: False, 0.05)
    assert time.monotonic() - begin < 5
