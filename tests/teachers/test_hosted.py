"""A teacher behind HTTP in the real stage: what is asked, kept, and never asked twice."""

import contextlib
import json
import random
import shutil
import subprocess
import threading
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from pipeline.processes import fork_server
from tests.project import lapse
from tests.servers import BadLine, Pure, of_check
from tests.teachers.test_api_keys import leaks
from tests.telling import killed

pytestmark = pytest.mark.usefixtures("warm")
CANARY = "sk-canary\"5f1c'9e7a+/="


@pytest.fixture
def server():
    with Pure().running() as found:
        yield found


def api(url, **more):
    return {
        "kind": "openai_compatible",
        "model": "stub-1",
        "base_url": f"{url}/v1",
        "timeout_seconds": 4.0,
        "concurrency": 8,
        **more,
    }


@pytest.fixture
def project(small, tmp_path):
    """The small project with its teacher replaced by one behind HTTP; round 1 up to forks ran."""
    found = small.copy(tmp_path / "project")
    (found.folder / "judgments.sqlite").unlink()
    return found


def ask(project, url, **edits):
    """Point the project's only arm at a server and run what is stale."""
    setup(project, url, **edits)
    return project.repro()


def ask_alone(project, url, group="teach-hosted", **edits):
    """The same up to the answers, or to another group."""
    setup(project, url, **edits)
    repro_alone(project, "omniopd", group)


def repro_alone(project, arm, group, **env):
    key = project.cell(arm, 1, group.partition("-")[0]).name
    project.run("dvc", "repro", project.address(f"{group}@{key}"), **env)


def setup(project, url, config=None, **edits):
    project.edit(
        experiment__arms=["omniopd"],
        teachers={"api": config or api(url)},
        arms={"omniopd": {}},
        teach__teacher="api",
        **{"teach__continuation": "prefill", **edits},
    )
    project.run("omniopd", "plan")


def command_of(project):
    """The command line of the arm's teach stage."""
    key = project.cell("omniopd", 1, "teach").name
    return ["omniopd", "stage", "teach", "--cell", key]


def teach(project, check=True, **env):
    """Run the teach stage alone."""
    return project.run(*command_of(project), check=check, **env)


def store_url(project):
    return f"sqlite:///{project.folder / 'judgments.sqlite'}"


def answers(project):
    return tables.read(project.cell("omniopd", 1, "teach") / "answers.parquet", schemas.ANSWERS)


def run_json(project):
    return json.loads((project.cell("omniopd", 1, "teach") / "run.json").read_text())


def test_a_whole_round_runs_with_a_teacher_that_is_only_http(project, server):
    ran = ask(project, server.url)
    assert [name for name in ran if name.startswith("teach")] != []
    found = answers(project)
    bought = len(set(found["request_key"].to_pylist()))  # equal prefixes share their answers
    assert len(server.answers) == bought  # one request a sample: n of this server is unknown
    run = run_json(project)
    assert (run["answers"], run["bought"], run["requests"]) == (len(found), bought, bought)
    assert set(found["model_returned"].to_pylist()) == {"stub-1"}
    last = [request["messages"][-1] for request in server.answers]
    prefixes = [message["content"] for message in last if message["role"] == "assistant"]
    assert len(prefixes) > len(last) / 2  # the rest are forks at the very beginning
    assert all(prefix == prefix.rstrip() != "" for prefix in prefixes)
    assert {"temperature", "top_p", "seed", "max_tokens"} <= set(server.answers[0])


@pytest.mark.slow  # as test_dag and test_verify_code look at other variants
def test_hosted_cells_load_what_their_locks_say(project):
    def end(request, reply):
        for choice in reply["choices"]:
            if not of_check(request):
                choice["finish_reason"] = "stop"
                choice["message"]["content"] = choice["message"]["content"][:5]
        return reply

    with Pure(change=end).running() as server:
        setup(project, server.url)
        arms = {"omniopd": {}, "sft": {"train": {"objective": "sft"}}}
        project.edit(experiment__arms=list(arms), arms=arms)
        ran = project.repro()
        hosted = [name for name in ran if name.startswith("teach-hosted")]
        assert {n.partition("@")[0] for n in hosted} == {"teach-hosted", "teach-hosted-solutions"}
        for name in hosted:
            assert project.loaded(name) <= project.reached(name)


@pytest.mark.slow
def test_a_second_clone_with_another_arm_asks_the_teacher_nothing(project, server, tmp_path):
    ask_alone(project, server.url)
    asked = len(server.requests)
    url = store_url(project)
    clone = project.copy(tmp_path / "clone")
    clone.edit(
        experiment__arms=["omniopd", "later"],
        arms={"omniopd": {}, "later": {"train": {"lr": 5.0e-4}, "teach": {"samples": 2}}},
    )
    clone.run("omniopd", "plan")
    for arm in ("omniopd", "later"):
        repro_alone(clone, arm, "teach-hosted", JUDGMENTS_URL=url)
    assert clone.cell("later", 1, "teach") != clone.cell("omniopd", 1, "teach")
    assert len(server.requests) == asked


def test_more_samples_buy_only_the_new_ones(project, server):
    ask_alone(project, server.url, teach__samples=2)
    first, asked = answers(project), len(server.answers)
    ask_alone(project, server.url, teach__samples=4)
    second = answers(project)
    assert len(server.answers) == 2 * asked
    kept = [row for row in second.to_pylist() if row["sample"] < 2]
    assert kept == first.to_pylist()
    assert all(count == 1 for count in server.whole.values())


@pytest.mark.slow
def test_another_metric_buys_nothing_and_another_temperature_or_mode_buys_all(project, server):
    ask_alone(project, server.url)
    asked = len(server.answers)
    ask_alone(project, server.url, "score", score__metric="prefix")
    scores = tables.read(project.cell("omniopd", 1, "score") / "scores.parquet", schemas.SCORES)
    assert set(scores["metric"].to_pylist()) == {"prefix"}
    assert len(server.answers) == asked
    ask_alone(project, server.url, teach__temperature=0.5)
    assert len(server.answers) == 2 * asked
    ask_alone(project, server.url, teach__continuation="instruct")
    assert len(server.answers) == 3 * asked


@pytest.mark.slow
def test_a_shorter_chunk_buys_only_positions_that_were_not_bought(project, server):
    ask_alone(project, server.url)
    known = {(row["rollout_id"], row["position"]) for row in answers(project).to_pylist()}
    asked = len(server.answers)
    ask_alone(project, server.url, forks__chunk_tokens=5)
    places = {(row["rollout_id"], row["position"]) for row in answers(project).to_pylist()}
    assert places & known
    bought = len(server.answers)
    ask_alone(project, server.url, forks__max_forks=2)
    assert len(server.answers) == bought  # two of the three forks
    assert answers(project).num_rows < 3 * len(places)
    assert len(server.answers) - asked <= 3 * len(places - known)


@pytest.mark.slow
def test_on_a_bad_line_the_table_is_that_of_a_quiet_run_and_nothing_whole_is_asked_again(
    project, tmp_path
):
    quiet = project.copy(tmp_path / "quiet")
    with Pure().running() as server:
        setup(quiet, server.url)
        teach(quiet)
    with Pure().running() as server, BadLine(server.url, 0.3).running() as line:
        setup(project, line.url)
        teach(project)
        assert set(line.faults) == {None, *line.FAULTS}  # every kind of fault came up
        forks = {body: n for body, n in line.delivered.items() if not of_check(body.decode())}
        assert max(forks.values()) == 1
        assert sum(forks.values()) == run_json(project)["bought"]
        assert sum(line.delivered.values()) == run_json(project)["bought"] + 10  # and the check
    assert answers(project).equals(answers(quiet))


@pytest.mark.slow
def test_a_key_is_found_nowhere_after_runs_with_failures(project, tmp_path):
    with Pure().running() as server, BadLine(server.url, 0.3).running() as line:
        config = api(line.url, api_key_env="MY_TEACHERS_KEY", tries=1)
        env = {"MY_TEACHERS_KEY": f"{CANARY}\r\n", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        env[fork_server.ENV] = ""  # one that has this cache
        setup(project, line.url, config)
        with copied(tmp_path, "*-wal", tmp_path / "logs ahead") as copies:
            failed = project.run("omniopd", "run", check=False, **env)
            setup(project, line.url, config | {"tries": 12})
            done = project.run("omniopd", "run", **env)
    assert failed.returncode == 2
    assert "[MY_TEACHERS_KEY]" in failed.stdout + failed.stderr  # where the provider repeated it
    assert line.keys == {f"Bearer {CANARY}"}
    assert run_json(project)["answers"] > 0
    (project.folder / "logs").write_text(failed.stdout + failed.stderr + done.stdout + done.stderr)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("prefect.db" in path.name for path in files)
    assert any("prefect.db-wal" in name for name in copies)
    assert [path for path in files if leaks(content(path), CANARY)] == []


@contextlib.contextmanager
def copied(folder, pattern, where):
    """Copies of files that come and go while the body runs, as they are ten times a second.

    Yields their names; the last ten copies of each are kept.
    """
    names, stop = Counter(), threading.Event()
    where.mkdir()

    def look():
        while not stop.wait(0.1):
            for path in folder.rglob(pattern):
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    if path.stat().st_size and path.parent != where:
                        shutil.copy(path, where / f"{names[path.name] % 10}-{path.name}")
                        names[path.name] += 1

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield names
    finally:
        stop.set()
        watching.join()


def content(path):
    """A file's text; of a table, whose pages are compressed, its values."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    return path.read_bytes().decode(errors="replace")


@pytest.mark.slow
def test_kill_at_random_moments_loses_only_what_was_in_flight(project, tmp_path):
    undisturbed = project.copy(tmp_path / "undisturbed")
    with Pure().running() as server:
        setup(undisturbed, server.url)
        teach(undisturbed)
    draw, kills = random.Random(5), 0
    with Pure(seconds=0.2).running() as server:
        setup(project, server.url)
        command = command_of(project)
        for _ in range(20):
            before = len(server.answers)
            process = subprocess.Popen(
                command,
                cwd=project.folder,
                env=project.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while len(server.answers) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.25))
            if process.poll() is not None:  # a busy machine woke this one too late
                break
            kills += 1
            killed(process)
            lapse(project.folder / "judgments.sqlite")
        with Store(store_url(project)) as store:
            stored = store.stats().answers
        teach(project)
        asked_again = sum(server.whole.values()) - len(server.whole)
    assert kills >= 10
    assert stored > 0
    assert asked_again <= 8 * kills  # what was in flight: the concurrency
    counts = Counter((row["rollout_id"], row["position"]) for row in answers(project).to_pylist())
    assert set(counts.values()) == {3}
    assert answers(project).equals(answers(undisturbed))
