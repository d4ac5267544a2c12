"""Answers that are bought while the rollouts are still sampled."""

import json
import re
import subprocess

import psutil
import pytest

from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from pipeline.stage import ahead
from tests.project import Project, lapse
from tests.servers import Pure, of_check
from tests.teachers.test_hosted import api, repro_alone, run_json, setup, store_url
from tests.telling import killed, wait_for

pytestmark = pytest.mark.usefixtures("warm")
TABLES = {
    "rollout": ("rollouts", schemas.ROLLOUTS),
    "forks": ("forks", schemas.FORKS),
    "teach": ("answers", schemas.ANSWERS),
}
# several batches of sampling, so that some rows have ended while others have not begun
MANY = {"rollout__prompts_per_round": 16, "runtime__batch_tokens": 300}


@pytest.fixture
def server():
    with Pure().running() as found:
        yield found


@pytest.fixture
def project(once, tmp_path):
    """A project of one arm, whose first rollout comes next."""

    def build(folder):
        found = Project(folder)
        planned(found, "http://127.0.0.1:9")
        key = found.cell("omniopd", 1, "rollout").name
        policy = found.yaml(f"dag/cells/rollout/{key}.yaml")["policy"].rpartition("/")[2]
        found.run("dvc", "repro", found.address(f"pretrain@{policy}"))
        found.ran = []
        return found

    return once("ahead", build).copy(tmp_path / "project")


def planned(project, url, config=None, **edits):
    setup(project, url, config, **MANY, **edits)


def stage(project, name, check=True, **env):
    key = project.cell("omniopd", 1, name).name
    return project.run("omniopd", "stage", name, "--cell", key, check=check, **env)


def table(project, name):
    file, _ = TABLES[name]
    return (project.cell("omniopd", 1, name) / f"{file}.parquet").read_bytes()


def counts(project):
    return json.loads((project.cell("omniopd", 1, "rollout") / "run.json").read_text())


def test_the_tables_are_those_without_it_and_stage_teach_asks_nothing(project, tmp_path):
    plain = project.copy(tmp_path / "plain")
    found = {}
    for one, on in ((project, True), (plain, False)):
        with Pure().running() as server:
            planned(one, server.url, teach__ahead=on)
            stage(one, "rollout")
            during = len(server.answers)
            stage(one, "forks")
            stage(one, "teach")
            found[on] = during, len(server.answers)
    for name in TABLES:
        assert table(project, name) == table(plain, name)
    assert found[False] == (0, found[True][0])
    assert found[True][0] == found[True][1] > 0
    run, rollout = run_json(project), counts(project)
    assert (run["bought"], run["requests"], run["usd"]) == (0, 0, 0.0)
    assert run["store_hits"] == rollout["ahead_answers"] == found[True][0]
    assert rollout["ahead_requests"] == found[True][0]
    assert rollout["ahead_forks_moved"] == 0
    assert "ahead_answers" not in counts(plain)
    assert run_json(plain)["bought"] == rollout["ahead_answers"]
    assert stored(project) == found[True][0]


@pytest.mark.parametrize(
    ("edits", "environment", "said"),
    [
        ({"config": {"tries": 1}}, {}, "HTTP 500|500"),
        ({"teach__max_requests": 14}, {}, r"teach\.max_requests is 14"),
        ({"config": {"api_key_env": "A_KEY"}}, {"A_KEY": ""}, "A_KEY"),
    ],
    ids=["server", "budget", "key"],
)
def test_what_stops_it_is_no_fault_of_the_rollout_and_stage_teach_says_it(
    project, edits, environment, said
):
    def broken(request, reply):
        if not of_check(request):
            raise ConnectionError
        return reply

    change = broken if "tries" in edits.get("config", {}) else lambda request, reply: reply
    with Pure(change=change).running() as server:
        config = api(server.url, **edits.pop("config", {}))
        planned(project, server.url, config, **edits)
        done = stage(project, "rollout", **environment)
        assert done.stderr.count("ahead for teach") == 1
        assert re.search(said, done.stderr) or "tries" in config
        stage(project, "forks")
        before = stored(project)
        failed = stage(project, "teach", check=False, **environment)
        assert failed.returncode == 2
        assert re.search(said, failed.stderr) or "tries" in config
        assert stored(project) >= before
        path = project.cell("omniopd", 1, "rollout") / "rollouts.parquet"
        assert tables.rows(path, schemas.ROLLOUTS) == 64


@pytest.mark.parametrize(
    "edits", [{"teach__replay": True}, {"teach__ahead": False}, {"forks__scheduler": "gated"}]
)
def test_nothing_is_asked_where_stage_teach_would_not_or_the_forks_are_not_known(
    project, server, edits
):
    if "forks__scheduler" in edits:
        edits = {"forks__gate": {"samples": 2, "least": 0.5}}
    planned(project, server.url, **edits)
    stage(project, "rollout")
    assert server.requests == []


def test_nothing_is_asked_for_a_trial_elsewhere_or_where_the_answers_are_known_to_dvc(
    project, server
):
    planned(project, server.url)
    key = project.cell("omniopd", 1, "rollout").name
    project.run("omniopd", "stage", "rollout", "--cell", key, "--out", "elsewhere")
    assert server.requests == []
    repro_alone(project, "omniopd", "teach-hosted")
    asked = len(server.requests)
    assert asked > 0
    assert run_json(project)["bought"] == 0
    (project.folder / "judgments.sqlite").unlink()
    stage(project, "rollout")  # as where its code has changed and its bytes have not
    assert len(server.requests) == asked


def test_of_several_arms_the_teachers_are_asked_and_equal_questions_once(project, server):
    planned(project, server.url)
    wrong = {"teach": {"problem": "another"}}
    arms = {"omniopd": {}, "two": {"teach": {"samples": 2}}, "wrong": wrong}
    project.edit(experiment__arms=list(arms), arms=arms)
    project.run("omniopd", "plan")
    stage(project, "rollout")
    asked = len(server.answers)
    stage(project, "forks")
    for arm in ("omniopd", "two", "wrong"):
        key = project.cell(arm, 1, "teach").name
        project.run("omniopd", "stage", "teach", "--cell", key)
    assert len(server.answers) == asked > 0
    assert set(server.whole.values()) == {1}


def test_a_rollout_that_is_killed_ends_it_and_leaves_answers_that_count(project):
    with Pure(seconds=0.2).running() as server:
        planned(project, server.url)
        key = project.cell("omniopd", 1, "rollout").name
        process = subprocess.Popen(
            ["omniopd", "stage", "rollout", "--cell", key],
            cwd=project.folder,
            env=project.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: sum(server.whole.values()) > 20)
        killed(process)
        wait_for(lambda: not buyers(key))
        kept, asked = stored(project), len(server.answers)
        assert 0 < kept <= asked
        lapse(project.folder / "judgments.sqlite")
        stage(project, "rollout")
        bought = counts(project)["ahead_answers"]
        stage(project, "forks")
        stage(project, "teach")
        assert run_json(project)["bought"] == 0
        assert run_json(project)["store_hits"] == kept + bought
        assert sum(server.whole.values()) - len(server.whole) <= 8  # what was in flight


def buyers(key):
    """The processes that buy ahead for a rollout."""
    found = (one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"]))
    return [words for words in found if key in words and ahead.PROGRAM in words]


def stored(project):
    with Store(store_url(project)) as store:
        return store.stats().answers
