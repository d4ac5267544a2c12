"""What a run shows on a real terminal, through a pipe and with --quiet."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from threading import Thread

import pytest
from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.processes import cell_log
from tests.commands.view.terminal import shows
from tests.project import MINIATURE, ROOT
from tests.telling import wait_for

# the run is a block that says a line, starts what writes to stderr, and waits for a word on stdin
GO = """
import os, signal, subprocess, sys
from contextlib import suppress
from pathlib import Path
from pipeline.commands.view import live
from pipeline.core.errors import UserError
from pipeline.processes import stopping
BEFORE
try:
    with live.shown(quiet="quiet" in sys.argv):
        print("a@c00000001 | Running stage 'x:a-c00000001':", flush=True)
        subprocess.run(["sh", "-c", "echo 'a@c00000001 | from a child' >&2"])
        with stopping.heard():
            word = sys.stdin.readline().strip()
        print("unended", end="")
        if word == "fail":
            raise UserError("it failed")
except stopping.Asked as asked:
    with suppress(OSError):  # the terminal may be what went
        print("stopped", flush=True)
    os._exit(asked.status)
except UserError:
    sys.exit(2)
Path("over").write_text(word)
print("the end")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose every cell ran."""
    folder = tmp_path_factory.mktemp("made") / "project"
    finished.now(folder, YAML(typ="safe", pure=True).load(MINIATURE.read_text()), ran=True)
    (folder / ".dvc" / "tmp").mkdir()
    return folder


@pytest.fixture
def project(made, monkeypatch):
    """That project is the current one."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{made / 'judgments.sqlite'}")
    Path("over").unlink(missing_ok=True)
    return made


def environment(**more):
    named = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONUTF8": "1", "CI": ""}
    return {**os.environ, **named, **more}


class Shown:
    """A command whose stdout and stderr are a terminal of its own; what it was sent."""

    def __init__(self, *command, columns=80, **more):
        self.columns, self.text = columns, ""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

        def own():
            os.setsid()
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=slave,
            stderr=slave,
            env=environment(**more),
            preexec_fn=own,
            text=True,
        )
        os.close(slave)
        Thread(target=self._read, daemon=True).start()
        self.open = True

    def _read(self):
        found = b""
        while True:
            try:
                chunk = os.read(self.master, 10_000)
            except OSError:  # it is closed
                return
            if not chunk:
                return
            found += chunk
            self.text = found.decode(errors="replace")

    def until(self, text):
        wait_for(lambda: text in self.text)

    def end(self, word=""):
        """Its status, when all was read."""
        self.process.communicate(f"{word}\n")
        return self.process.returncode

    def lines(self):
        """What stands on the terminal at last."""
        return shows(self.text, self.columns)


def go(before="", *words, **more):
    return Shown(sys.executable, "-c", GO.replace("BEFORE", before), *words, **more)


SAID = ["a@c00000001 | Running stage 'x:a-c00000001':", "a@c00000001 | from a child", "unended"]


@pytest.mark.parametrize("columns", [80, 200])
def test_on_a_terminal_a_picture_stands_below_the_lines_and_goes_at_the_end(project, columns):
    shown = go(columns=columns)
    shown.until("teachers $0.00")
    found = shown.lines()
    assert found[:2] == SAID[:2]
    assert "project: omniopd and 2 more arms, 1 round, 1 seed" in found
    assert "17 cells  ✓ 17 done" in found
    assert max(map(len, found)) <= columns
    assert shown.end() == 0
    shown.until("the end")
    assert shown.lines() == [*SAID, "the end"]
    assert "\x1b[?25l" not in shown.text  # the cursor was never hidden


def test_what_goes_wrong_in_drawing_is_said_and_the_run_goes_on(project):
    broken = "live.picture = lambda *_: 1 / 0; live.SECONDS = 0.01; live.SHARE = 0"
    shown = go(broken)
    shown.until("nothing more is drawn: ZeroDivisionError")
    assert shown.end() == 0
    shown.until("the end")
    assert shown.lines()[-1] == "the end"


def test_what_goes_wrong_in_hearing_a_line_leaves_the_line(project):
    shown = go("live.Heard.line = None")
    shown.until("from a child")
    assert shown.end() == 0
    shown.until("the end")
    assert [line for line in shown.lines() if "from a child" in line]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_as_without_a_picture(project, number, status):
    shown = go()
    shown.until("teachers $0.00")
    os.killpg(shown.process.pid, number)
    assert shown.process.wait() == status
    shown.until("stopped")
    assert shown.lines()[-1] == "stopped"


def test_a_terminal_that_goes_away_ends_the_run_by_the_signal_for_it(project):
    shown = go()
    shown.until("teachers $0.00")
    os.close(shown.master)
    assert shown.process.wait() == 129
    assert not Path("over").exists()


def test_a_run_that_is_to_outlive_its_terminal_does(project):
    shown = go("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    shown.until("teachers $0.00")
    os.close(shown.master)
    shown.end("well")
    assert Path("over").read_text() == "well"


def test_without_a_terminal_nothing_but_the_lines_is_written(project):
    command = [sys.executable, "-c", GO.replace("BEFORE", "")]
    found = subprocess.run(
        command, input="\n", capture_output=True, text=True, env=environment(), check=True
    )
    assert found.stdout == f"{SAID[0]}\nunendedthe end\n"
    assert found.stderr == f"{SAID[1]}\n"


def test_quiet_says_only_the_end_and_of_a_failure_the_last_lines(project):
    command = [sys.executable, "-c", GO.replace("BEFORE", ""), "quiet"]
    how = {"capture_output": True, "text": True, "env": environment()}
    found = subprocess.run(command, input="\n", **how)
    assert (found.stdout, found.stderr) == ("the end\n", "")
    found = subprocess.run(command, input="fail\n", **how)
    assert (found.returncode, found.stdout) == (2, "")
    assert SAID[1] in found.stderr.splitlines()


@pytest.mark.parametrize("named", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_without_any_skill_and_one_at_which_nobody_looks_get_the_lines(project, named):
    shown = go(**named)
    shown.until("from a child")
    assert shown.end() == 0
    shown.until("the end")
    assert "\x1b" not in shown.text


def test_status_watch_draws_what_runs_in_the_place_of_the_last_picture(project):
    lock = next((project / "data" / "train").iterdir())
    path = lock.parent / f".{lock.name}.lock"
    path.write_text(
        f'{cell_log.who()}\n{{"what": "train", "done": 3, "total": 12, "per_second": 1.5}}'
    )
    entry = (sys.executable, "-m", "pipeline.commands.entry")
    shown = Shown(*entry, "status", "--watch", "--seconds", "0.5", columns=200)
    shown.until("train 3 of 12  1.5/s  6 s left")
    path.unlink()
    assert shown.end() == 0
    shown.until("17 done")
    assert "17 cells  ✓ 17 done" in shown.lines()
    assert not [line for line in shown.lines() if "3 of 12" in line]


# the whole command; seconds are in no run.json of a project whose stages wrote a few bytes
WHOLE = "from pipeline.commands import app; app._took = lambda: 'took nothing'; app.main()"
LAST = {
    "repro": ["nothing to do: every stage is up to date. page: data/report/index.html", "run: "],
    "run": ["page: data/report/index.html", "took nothing"],
}


@pytest.mark.parametrize("command", LAST)
def test_a_command_ends_on_a_terminal_as_elsewhere_and_quiet_with_its_last_lines(project, command):
    words = (sys.executable, "-c", WHOLE, command)
    shown = Shown(*words)
    assert shown.end() == 0
    shown.until("took nothing")
    piped, quiet = (
        subprocess.run([*words, *more], env=environment(), capture_output=True, text=True)
        for more in ([], ["--quiet"])
    )
    for lines in (shown.lines(), piped.stdout.splitlines(), quiet.stdout.splitlines()):
        for line, begun in zip(lines[-2:], LAST[command], strict=True):
            assert line.startswith(begun)
    assert "17 done" not in "".join(shown.lines())
    assert "smallest difference seen" in "".join(shown.lines())
    assert "smallest difference seen" in piped.stdout
    assert (quiet.stdout.count("\n"), quiet.stderr) == (2, "")
