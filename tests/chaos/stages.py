"""Faults while stages, `dvc repro` and the flow run: signals at random moments, then once more.

A stage that was broken off has to leave nothing that its next run or another stage takes for
whole, and its next run has to end in the bytes of one that was never disturbed.
"""

import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import psutil

from pipeline.processes import fork_server
from tests.chaos.counted import MARK, Outcome, Place, ended, kind
from tests.project import Project
from tests.servers import Pure, of_check

TINY = {"kind": "llama", "hidden": 16, "layers": 1, "heads": 2, "mlp": 32}
STAGES = ("rollout", "teach-hosted", "score", "train", "evaluate", "report")
RATES = (1e-3, 2e-3, 3e-3)  # of train: another than that of the finished project makes it stale
CONCURRENCY = 4  # of requests to the teacher
KEY = "CHAOS_API_KEY"  # of the teacher's; its value tells a fault's requests from those of others
SHARED: dict[str, object] = {}  # what `ready` made


@contextlib.contextmanager
def ready():
    """A finished project with a teacher behind HTTP, and the server that stages are forked from."""
    import tempfile

    with (
        tempfile.TemporaryDirectory(prefix="omniopd-chaos-") as folder,
        Pure().running() as server,
        fork_server.serving() as forks,
    ):
        project = Project(Path(folder) / "done")
        models = {
            name: {"init": TINY, "steps": 30, "batch_size": 8, "lr": 1e-2}
            for name in ("careful", "sloppy")
        }
        project.edit(
            experiment__arms=["omniopd"],
            arms={"omniopd": {}},
            teachers={"api": api(server.url)},
            teach__teacher="api",
            teach__continuation="prefill",
            pretrain__models=models,
            evaluate__samples=2,
        )
        SHARED.update(project=project, server=server, forks=forks)
        project.run("omniopd", "repro", **forks, **{KEY: "done"})
        yield
        SHARED.clear()


def api(url: str) -> dict[str, object]:
    return {
        "kind": "openai_compatible",
        "model": "stub-1",
        "base_url": f"{url}/v1",
        "timeout_seconds": 10.0,
        "concurrency": CONCURRENCY,
        "api_key_env": KEY,
    }


class Work:
    """A command in a copy of the finished project, marked so that what it leaves is found."""

    def __init__(self, place: Place) -> None:
        self.place = place
        done = SHARED["project"]
        assert isinstance(done, Project)
        self.project = done.copy(place.folder / "project")
        self.outcome = Outcome()

    def start(self, *command: str, **env: str) -> psutil.Popen:
        with (self.place.folder / "log").open("w") as log:
            return psutil.Popen(
                command,
                cwd=self.project.folder,
                env=self.project.environment(**env) | {MARK: self.place.mark, KEY: self.place.mark},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def asked(self) -> Counter[str]:
        """How often this work has asked the teacher for each answer, and what is no answer."""
        server = SHARED["server"]
        assert isinstance(server, Pure)
        with server.lock:
            came = list(zip(server.requests, server.headers, strict=True))
        mine = f"Bearer {self.place.mark}"
        found = (request for request, headers in came if mine in headers.values())
        return Counter(json.dumps(request) for request in found if not of_check(request))

    def wrong(self, said: str) -> None:
        self.outcome.silent += 1
        self.outcome.told.append(f"{said}: {(self.place.folder / 'log').read_text()[-2000:]}")

    def ended(self, process: psutil.Popen, what: str) -> int:
        """Its exit status, and what it leaves counted; one that hangs is killed with its group."""
        if not ended(process):
            self.wrong(f"{what} did not end")
            self.outcome.silent -= 1
            self.outcome.hangs += 1
            os.killpg(process.pid, signal.SIGKILL)
        left = self.place.left()
        self.outcome.processes_left += len(left)
        self.outcome.told += left
        return process.wait()


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all outs but the seconds that stages took."""
    files = sorted(path for path in (folder / "data").rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != "run.json" and "report" not in path.parts
    }


def disturbed(place: Place, group: str, number: int, pause: float = 0.0) -> Outcome:
    """One stage, signalled at a random moment, is run to its end by the next process."""
    work = Work(place)
    stages = work.project.locked()
    name = next(name for name in stages if name.startswith(f"{group}@") or name == group)
    before = folder_of(work.project, stages[name])
    _, *rest = shlex.split(stages[name]["cmd"])
    asked, process, longest = work.asked(), begun(work, stages[name], rest), 4.0
    time.sleep(place.draw.uniform(0, longest))
    while process.poll() is not None:  # it was done before: once more, sooner
        longest /= 2
        asked, process = work.asked(), begun(work, stages[name], rest)
        time.sleep(place.draw.uniform(0, longest))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
        if number == signal.SIGSTOP:
            time.sleep(pause)
            os.killpg(process.pid, signal.SIGCONT)
    status = work.ended(process, name)
    if number == signal.SIGSTOP and status:
        work.wrong(f"{name} failed after it stood still")
    if status:
        again = work.start("omniopd", *rest)
        if work.ended(again, f"{name}, done again,"):
            work.wrong(f"{name} was not done again")
    after = folder_of(work.project, stages[name])
    if differing := [path for path in before | after if before.get(path) != after.get(path)]:
        work.wrong(f"{name}: {differing} differ")
    if group == "teach-hosted":
        again = work.asked() - asked
        if not again:
            work.wrong(f"{name} bought nothing at the counting server")
        # a process that ended early had requests in flight, and replies it had not stored
        in_flight = 2 * CONCURRENCY if status else 0
        work.outcome.bought_twice += max(0, again.total() - len(again) - in_flight)
    return work.outcome


def begun(work: Work, locked: dict, rest: list[str]) -> psutil.Popen:
    """A process of a stage, whose outs are removed first, as DVC does."""
    for out in locked["outs"]:
        path = work.project.folder / out["path"]
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if rest[1] == "teach":
        (work.project.folder / "judgments.sqlite").unlink()
    return work.start("omniopd", *rest)


def folder_of(project: Project, locked: dict) -> dict[str, bytes]:
    found = {}
    for out in locked["outs"]:
        path = project.folder / out["path"]
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.name not in ("run.json", "report.html", "results.md"):
                found[str(file.relative_to(project.folder))] = file.read_bytes()
    return found


for _group in STAGES:
    for _name, _number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):
        kind(f"{_group}-{_name}", 10, running=True)(
            functools.partial(disturbed, group=_group, number=_number)
        )
for _group in ("train", "teach-hosted"):
    for _name, _number in (("hup", signal.SIGHUP), ("stop", signal.SIGSTOP)):
        kind(f"{_group}-{_name}", 10, running=True)(
            functools.partial(disturbed, group=_group, number=_number, pause=2.0)
        )


# the whole run


def broken_off(place: Place, command: tuple[str, ...], number: int, group: bool) -> Outcome:
    """`omniopd run` or `repro` of a stale project ends by a signal; the next finishes it."""
    work, lr = Work(place), place.draw.choice(RATES)
    work.project.edit(train__lr=lr)
    process = work.start(*command)
    time.sleep(place.draw.uniform(0.5, 6))
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        os.killpg(process.pid, number) if group else process.send_signal(number)
    work.ended(process, str(command))
    if work.ended(work.start(*command), f"the next {command}"):
        work.wrong(f"{command} was not finished by the next")
    elif wrong := different(lr, contents(work.project.folder)):
        work.wrong(f"{command}: {wrong} differ")
    return work.outcome


WHOLE: dict[float, dict[str, bytes]] = {}


def different(lr: float, found: dict[str, bytes]) -> list[str]:
    """Outs that are not those of the first run with the same learning rate that ended well."""
    cells = {
        path: data for path, data in found.items() if "/train/" in path or "/evaluate/" in path
    }
    known = WHOLE.setdefault(lr, cells)
    return [path for path in known if path in cells and known[path] != cells[path]]


for _command in (("omniopd", "run", "--parallel", "2"), ("omniopd", "repro")):
    for _name, _number, _group_too in (
        ("kill", signal.SIGKILL, False),
        ("hup", signal.SIGHUP, False),
        ("term", signal.SIGTERM, False),
        ("term-group", signal.SIGTERM, True),
    ):
        kind(f"{_command[1]}-{_name}", 10, running=True)(
            functools.partial(broken_off, command=_command, number=_number, group=_group_too)
        )


@kind("run-prefect-killed", 10, running=True)
def _(place: Place) -> Outcome:
    """Prefect's server is killed; the run goes on to its end."""
    work = Work(place)
    work.project.edit(train__lr=place.draw.choice(RATES))
    process = work.start("omniopd", "run", "--parallel", "2")
    deadline = time.monotonic() + 20
    servers: list[psutil.Process] = []
    while not servers and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psutil.Error):
            servers = [
                child
                for child in psutil.Process(process.pid).children(recursive=True)
                if "pipeline.runner.prefect_server" in child.cmdline()
            ]
        time.sleep(0.05)
    if not servers:
        work.wrong("no process of Prefect was there to be killed")
    time.sleep(place.draw.uniform(0, 5))
    for server in servers:
        with contextlib.suppress(psutil.Error):
            server.kill()
    if work.ended(process, "the run without Prefect"):
        work.wrong("the run failed without Prefect")
    return work.outcome
