"""runtime.launch: a stage that a prefix starts elsewhere is to its caller one that runs here."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import machines
from pipeline.config.machines import Machines
from pipeline.core.errors import UserError
from pipeline.processes import reaper
from pipeline.processes.launch import keeper
from pipeline.processes.launch.kinds import kind
from tests.processes.launch import slurm
from tests.telling import Stages, gone, wait_for

SSH = """#!/bin/sh
shift  # the host; its shell reads the words again, in its own folder and with its own environment
cd / && exec env -i HOME=/ PATH=/usr/bin:/bin "PYTHONPATH=$PYTHONPATH" /bin/sh -c "$*"
"""


class Launched(Stages):
    """Stages that srun starts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "a project")
        for stage in ("look", "end", "wait"):
            path = self.folder / "dag" / "cells" / stage / "ca.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(f"group: {stage}\n")
        self.queue = folder / "slurm"
        self.there = slurm.install(self.queue)
        self.prefix("srun -p gpu")

    def prefix(self, text: str, kind: str = "cpu") -> None:
        params = {"runtime": {"launch": {kind: text}}}
        (self.folder / "params.yaml").write_text(json.dumps(params))

    def open(self) -> None:
        (self.queue / "open").touch()

    def pids(self) -> list[int]:
        """The stage, elsewhere, and what it started."""
        wait_for((self.folder / "pids").exists)
        return [int(pid) for pid in (self.folder / "pids").read_text().split()]

    def wait(self, queued: bool) -> "tuple[subprocess.Popen[str], list[int]]":
        """A stage that waits in the queue, or at work, and its processes there."""
        process = self.start(self.there, "wait", str(self.folder / "pids"), "--cell", "ca")
        wait_for(lambda: slurm.jobs(self.queue) == ["PENDING"])
        if queued:
            return process, []
        self.open()
        return process, self.pids()

    def ended(self) -> bool:
        """Whether nothing is left of any job, nor of who waited for it."""
        waiting = any(str(self.queue.parent) in one for one in command_lines())
        return not waiting and not slurm.at_work(self.queue)


def command_lines() -> Iterator[str]:
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield one.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Launched]:
    found = Launched(tmp_path)
    yield found
    for pid in slurm.at_work(found.queue):  # what a failed test has left
        os.kill(pid, signal.SIGKILL)


def alike(seen: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in seen.items() if k not in ("orig_argv", "environment", "stdin")}


def test_a_stage_sees_there_what_it_sees_here(stages: Launched) -> None:
    stages.open()
    given = {**stages.there, "DVC_STAGE": "a stage", "OMNIOPD_DVC_CACHE": "/a cache"}
    status, output, errors = stages.run({**given, reaper.ENV: "mark"}, "look", "--cell", "ca")
    assert status == 0, errors
    assert errors == "launch: waits for its place: srun -p gpu\n"
    runs, seen = output.splitlines()
    assert runs.startswith("launch: runs on ")
    there = json.loads(seen)
    (stages.folder / "params.yaml").unlink()
    here = stages.look(given, "--cell", "ca")
    assert alike(there) == alike(here)
    for name in ("DVC_STAGE", "OMNIOPD_DVC_CACHE"):
        assert there["environment"][name] == given[name]
    assert there["environment"][reaper.ENV] != "mark"


@pytest.mark.parametrize(("how", "status"), [("none", 0), ("text", 1), ("3", 3), ("-9", 137)])
def test_the_exit_status_is_the_stages(stages: Launched, how: str, status: int) -> None:
    stages.open()
    found, output, errors = stages.run(stages.there, "end", how, "--cell", "ca")
    assert found == status
    assert "begun" in output
    assert ("error: said" in output + errors) is (how == "text")
    wait_for(stages.ended)


@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_cancels_the_job(stages: Launched, number: signal.Signals, queued: bool) -> None:
    process, pids = stages.wait(queued)
    process.send_signal(number)
    assert process.wait(60) == -number
    wait_for(lambda: all(gone(pid) for pid in pids))
    wait_for(stages.ended)
    assert "RUNNING" not in slurm.jobs(stages.queue)
    assert "PENDING" not in slurm.jobs(stages.queue)


def test_an_interrupt_lets_the_stage_clean_up(stages: Launched) -> None:
    process, _ = stages.wait(queued=False)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert slurm.jobs(stages.queue) == ["130"]  # ended by itself and not killed


def test_ssh_reads_the_words_again_and_passes_nothing_on(stages: Launched) -> None:
    (stages.queue / "ssh").write_text(SSH)
    (stages.queue / "ssh").chmod(0o755)
    stages.prefix("ssh there")
    status, output, errors = stages.run(
        {**stages.there, "DVC_STAGE": "it's $a"}, "look", "--cell", "ca"
    )
    assert status == 0, errors
    seen = json.loads(output)
    assert seen["cwd"] == str(stages.folder)
    assert seen["environment"]["DVC_STAGE"] == "it's $a"
    # of a signal it tells the other side nothing but the end of stdin
    process = stages.start(stages.there, "wait", str(stages.folder / "pids"), "--cell", "ca")
    pids = stages.pids()
    process.kill()
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_another_kind_runs_here(stages: Launched) -> None:
    stages.prefix("srun", "gpu")
    assert stages.look(stages.there, "--cell", "ca")["cwd"] == str(stages.folder)
    assert slurm.jobs(stages.queue) == []


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        (
            "srunn -p gpu",
            "runtime.launch.cpu: found 'srunn', which cannot be started here (",
        ),
        ("env srunn", "runtime.launch.cpu: `env srunn` ended with status 127: a program was not"),
        ("srun 'gpu", 'runtime.launch.cpu: found "srun \'gpu", wanted the words of a command'),
    ],
)
def test_a_prefix_that_starts_nothing_is_named(stages: Launched, prefix: str, said: str) -> None:
    stages.prefix(prefix)
    status, _, errors = stages.run(stages.there, "look", "--cell", "ca")
    assert status == 2
    assert said in errors
    assert "Traceback" not in errors


def test_a_kind_of_cell_that_there_is_none_of_is_named() -> None:
    with pytest.raises(ValidationError, match="kinds of cells, gpu, api, cpu, and gpux is none"):
        Machines.model_validate({"launch": {"gpux": "srun"}})


def test_a_launcher_that_is_deaf_is_killed(stages: Launched, tmp_path: Path) -> None:
    told = tmp_path / "told"
    source = Path(keeper.__file__).read_text()
    quick = source.replace("KILL_SECONDS = 20.0", "KILL_SECONDS = 0.5")
    assert quick != source
    (tmp_path / "keeper.py").write_text(quick)
    deaf = f"trap '' INT TERM; echo > {told}; while :; do sleep 0.1; done"
    ours, its = keeper.socket.socketpair()
    command = [sys.executable, "-I", tmp_path / "keeper.py", str(its.fileno()), "sh", "-c", deaf]
    subprocess.run(command, pass_fds=[its.fileno()], start_new_session=True, check=True)
    its.close()
    wait_for(told.exists)
    ours.sendall(bytes([signal.SIGTERM]))
    start = time.monotonic()
    assert ours.recv(64) == b"ended -9"
    assert time.monotonic() - start < 60


def test_kinds_are_by_what_a_cell_does() -> None:
    groups = {
        "gpu": ["train", "rollout-vllm", "teach", "steps-opd-hosted", "forks-student"],
        "api": ["teach-hosted", "teach-hosted-solutions"],
        "cpu": ["prepare", "forks", "score", "prior", "report", "calibrate"],
    }
    assert {name: [kind(one) for one in some] for name, some in groups.items()} == {
        name: [name] * len(some) for name, some in groups.items()
    }


@pytest.mark.parametrize(
    "launch", ["{gup: srun}", "{gpu: ''}", "{gpu: 3}", '{gpu: "a \'b"}', "srun"]
)
def test_a_wrong_setting_is_refused(
    launch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(f"runtime: {{launch: {launch}}}\n")
    with pytest.raises(UserError, match=r"params\.yaml: runtime\.launch"):
        machines.read()
