import os

from tests.project import MINIATURE, PYTHONPATH, Project, ran

# before anything else reads them
os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores
os.environ["PYTHONPATH"] = PYTHONPATH  # as in every project, so that a server here fits them
os.environ.pop("OMNIOPD_FORKSERVER", None)

import itertools
import json
import sys

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from pipeline.judgments.store import Store
from pipeline.processes import fork_server
from pipeline.teachers import batches
from pipeline.teachers.wire import calls
from tests import databases, signals
from tests.browser import chromium, made, visit  # noqa: F401

signals.as_in_a_terminal()

ARMS = list(YAML(typ="safe").load(MINIATURE.read_text())["arms"])


LONGEST = (
    *("services", "hosted", "steps", "resume", "dag", "vllm", "reruns", "flow", "spending"),
    *("recompute", "sharing", "ranks_stage", "vllm_resident", "lora_dag", "keeping"),
    *("extending_task", "code", "math", "types"),
)


def pytest_collection_modifyitems(items):
    """The longest files first: begun last, one would keep one worker busy alone."""
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


# what a process keeps of the folder that it stands in, or of what it has said
KEPT = (
    *(("config.renamed", "_warn"), ("core.verified", "_outs"), ("data.content_hash", "sha256")),
    *(("runner.dag.plan_files", "_cache_folder"), ("stage.resume", "deps")),
    *(("report.no_effect", "_responses"), ("engines.chat.turn_ends", "ends")),
)


@pytest.fixture(autouse=True)
def as_a_new_process():
    """Each test begins with nothing kept by the tests that its worker ran before."""
    for module, name in KEPT:
        if loaded := sys.modules.get(f"pipeline.{module}"):
            getattr(loaded, name).cache_clear()


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")


@pytest.fixture(scope="session")
def forks():
    with fork_server.serving() as found:
        yield found


@pytest.fixture(scope="module")
def warm(forks):
    """Stages of all the module's projects are forked from this worker's one server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in forks.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """A project by name, built by the first worker that needs it and read by all."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def project(name, build):
        folder, ran = shared / name, shared / f"{name}.ran.json"
        with FileLock(shared / f"{name}.lock"):
            if not ran.is_file():
                ran.write_text(json.dumps(build(folder).ran))
        found = Project.at(folder)
        found.ran = json.loads(ran.read_text())
        return found

    return project


@pytest.fixture(scope="session")
def full(once):
    """The miniature with every arm, run by the flow. Read it, do not change it."""

    def build(folder):
        project = Project(folder)
        project.edit(experiment__arms=ARMS)
        project.ran = project.flow()
        return project

    return once("full", build)


@pytest.fixture(scope="session")
def small(full, once):
    """A project of three arms and one round, run. Copy it before changing it."""

    def build(folder):
        project = full.copy(folder)
        project.edit(experiment__arms=["omniopd", "sft", "shuffled-scores"])
        project.ran = project.repro()
        return project

    return once("small", build)


@pytest.fixture(scope="session")
def swept(small, once):
    """The same with a sweep of four points, stopped when it trained and gone on with.

    `ran` has the cells of both runs.
    """

    def build(folder):
        project = small.copy(folder)
        words = ("score.metric=exact,edit", "train.lr=1e-3,3e-3", "--arms", "omniopd,sft")
        command = ("omniopd", "sweep", *words)
        first = project.stopped("Running stage '.*:train-", *command)
        project.ran = [ran(first), ran(project.run(*command, "--parallel", "2").stdout)]
        return project

    return once("swept", build)


@pytest.fixture(scope="session")
def postgres_server():
    """A real Postgres, started for the tests that need it."""
    with databases.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres(postgres_server):
    """Each call gives an empty database."""
    count = itertools.count()

    def database():
        return databases.url_of(postgres_server, f"judgments{next(count)}")

    return database


@pytest.fixture
def file_url(tmp_path):
    return f"sqlite:///{tmp_path / 'judgments.sqlite'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.team)])
def url(request, file_url):
    """An empty store on each database: both run the same tests."""
    return file_url if request.param == "sqlite" else request.getfixturevalue("postgres")()


@pytest.fixture(params=["sqlite", "postgres"])
def urls(request, file_url, postgres):
    """Two empty stores, the second on the other database than the first."""
    found = [file_url, postgres()]
    return found if request.param == "sqlite" else found[::-1]


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'judgments.sqlite'}", "project") as found:
        yield found


@pytest.fixture
def quick(monkeypatch):
    """Keys for every provider, and no waiting."""
    monkeypatch.setattr(calls, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(batches, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(batches, "POLL_SECONDS", 0.01)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "sk-canary")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
