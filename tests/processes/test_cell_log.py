"""What a stage says in its cell's lock, while it runs and after it failed."""

import json
import signal
from pathlib import Path

import pytest

from pipeline.processes import cell_log
from tests.telling import Stages, wait_for

STEP = """
import sys, time
from pathlib import Path
from tqdm import tqdm
bar = tqdm(range(400), "count", 400, disable=None)
for i in bar:
    if i == 250:
        Path(sys.argv[1]).write_text("here")
        time.sleep(300)
    time.sleep(0.01)
"""
REFUSE = """
import sys
from pipeline.core.errors import UserError, stop
sys.stderr.write("first\\n")
stop(UserError("found 1, wanted 2"))
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    found = Stages(tmp_path_factory.mktemp("stages"))
    for name, source in {"step": STEP, "refuse": REFUSE}.items():
        (found.folder / "stages" / f"{name}.py").write_text(source)
    return found


def test_a_bar_that_shows_nothing_tells_how_far_it_is_and_a_kill_leaves_that(
    stages: Stages,
) -> None:
    said, out = stages.folder / "said", stages.folder / "data" / "step" / "ca"
    first = stages.start({}, "step", str(said), "--out", str(out))
    lock = out.with_name(".ca.lock")

    def told() -> bool:
        found = cell_log.read(lock)
        return found is not None and found.state.get("done", 0) > 0

    wait_for(told)
    wait_for(said.exists)
    first.send_signal(signal.SIGKILL)
    _, errors = first.communicate()
    assert errors == ""
    found = cell_log.read(lock)
    assert found is not None
    assert found.pid == first.pid
    assert found.state["what"] == "count"
    assert 0 < found.state["done"] <= 250
    assert found.state["total"] == 400
    assert 0 < found.state["per_second"] <= 101  # a hundredth of a second each


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("refuse",), "found 1, wanted 2"), (("end", "raise"), "ValueError: this is wrong")],
)
def test_a_stage_that_fails_leaves_the_last_that_it_said(
    stages: Stages, command: tuple[str, ...], reason: str
) -> None:
    lock = stages.folder / "data" / command[0] / ".ca.lock"
    status, _, errors = stages.run({}, *command, "--out", str(lock.with_name("ca")))
    assert status in (1, 2)
    found = cell_log.read(lock)
    assert found is not None
    assert found.state["failed"] == reason
    assert found.state["lines"] == [line for line in errors.splitlines() if line][-12:]


def test_a_stage_that_ends_well_or_was_interrupted_leaves_nothing(stages: Stages) -> None:
    for how in ("none", "interrupt"):
        out = stages.folder / "data" / "end" / how
        stages.run({}, "end", how, "--out", str(out))
        assert not out.with_name(f".{how}.lock").exists()


def test_lines_are_as_a_terminal_has_them_at_last() -> None:
    kept = cell_log.deque[str](maxlen=3)
    with Path("/dev/null").open("w") as nothing:
        stream = cell_log.Teed(nothing, kept)
        for text in ("one\ntw", "o\n\n", "0 of 3\r1 of 3\r", "2 of 3\n", "four\nfi"):
            stream.write(text)
        assert list(kept) == ["two", "2 of 3", "four"]
        assert stream.fileno() == nothing.fileno()


def test_what_is_half_written_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for text in ("", "something else"):
        path.write_text(text)
        assert cell_log.read(path) is None
    path.write_text(cell_log.who() + '\n{"done": 1')
    found = cell_log.read(path)
    assert found is not None
    assert found.state == {}
    path.write_text(cell_log.who() + "\n" + json.dumps({"done": 1}) + "   ")
    found = cell_log.read(path)
    assert found is not None
    assert found.state == {"done": 1}
    assert cell_log.read(tmp_path / "none") is None


def test_the_first_rank_says_it_in_the_lock_of_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages

    cell, lock = tmp_path / "train" / "ca", tmp_path / "train" / ".ca.lock"
    for rank, told in (("0 2 1 meeting", 3), ("1 2 1 meeting", None)):
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(cell_log.who())
        monkeypatch.setenv(stages.RANK, rank)
        log = stages.hold(cell)
        if log is not None:
            log.say(done=3)
        found = cell_log.read(lock)
        assert found is not None
        assert found.state.get("done") == told
    lock.unlink()
    monkeypatch.setenv(stages.RANK, "0 2 1 meeting")
    assert stages.hold(cell) is None
