"""Equal bytes whatever the machine is told, kills that cost nothing, and bad input."""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from pipeline.judgments.store import Store
from pipeline.processes import fork_server
from tests.project import Project, lapse

pytestmark = pytest.mark.usefixtures("warm")

DETERMINISTIC = {
    "rollout": ["rollouts.parquet"],
    "forks": ["forks.parquet"],
    "teach": ["answers.parquet"],
    "score": ["scores.parquet"],
    "prior": ["targets.parquet"],
    "calibrate": ["calibration.parquet"],
    "train": ["checkpoint/model.safetensors", "optimizer.safetensors", "metrics.jsonl"],
    "evaluate": ["evals.parquet"],
}


@pytest.fixture
def project(small, tmp_path):
    return small.copy(tmp_path / "project")


def command(project, stage, arm="omniopd"):
    """The command line of the arm's cell in round 1, as DVC ran it."""
    key = project.cell(arm, 1, stage).name
    locked = project.locked()
    (name,) = [n for n in locked if n.endswith(f"@{key}")]
    return locked[name]["cmd"].split()


def folder(project, words):
    """What the stage of this command line writes."""
    stage, key = words[words.index("stage") + 1], words[words.index("--cell") + 1]
    return project.folder / "data" / stage / key


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_equal_seeds_give_equal_bytes_whatever_omp_num_threads_is(project):
    assert project.environment()["OMP_NUM_THREADS"] == "1"  # as the cells ran first
    for stage, names in DETERMINISTIC.items():
        folder = project.cell("omniopd", 1, stage)
        before = {name: digest(folder / name) for name in names}
        shutil.rmtree(folder)
        store = f"sqlite:///{project.folder / 'empty.sqlite'}"
        project.run(*command(project, stage), OMP_NUM_THREADS="4", JUDGMENTS_URL=store)
        assert {name: digest(folder / name) for name in names} == before, stage


SLOW = """
import runpy, sys, time
from pipeline.teachers.providers.local import LocalTeacher
real = LocalTeacher.answer
def slow(self, *asked):
    for found in real(self, *asked):
        time.sleep(0.05)
        yield found
LocalTeacher.answer = slow
sys.argv = sys.argv[1:]
runpy.run_module("stages.teach", run_name="__main__", alter_sys=True)
"""


def stored(url):
    if not os.path.exists(url.removeprefix("sqlite:///")):
        return 0
    with sa.create_engine(url).connect() as connection:
        names = sa.inspect(connection).get_table_names()
        if "answers" not in names:
            return 0
        return connection.execute(sa.text("select count(*) from answers")).scalar()


@pytest.mark.slow
def test_a_killed_teach_asks_for_nothing_that_it_has(project):
    url = f"sqlite:///{project.folder / 'killed.sqlite'}"
    words = command(project, "teach")[3:]
    folder = project.cell("omniopd", 1, "teach")
    before = digest(folder / "answers.parquet")
    shutil.rmtree(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "teach", *words],
        cwd=project.folder,
        env=project.environment(JUDGMENTS_URL=url),
    )
    deadline = time.time() + 90
    while stored(url) < 20 and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = stored(url)
    assert kept >= 20
    assert not folder.exists() or not any(folder.glob("*.parquet"))
    lapse(project.folder / "killed.sqlite")
    project.run("omniopd", "stage", "teach", *words, JUDGMENTS_URL=url)
    assert digest(folder / "answers.parquet") == before
    with Store(url) as store:
        total = store.stats().answers
    import json

    run = json.loads((folder / "run.json").read_text())
    assert kept < total
    assert run["bought"] == total - kept


def test_replay_never_asks_and_names_the_misses(project):
    words = command(project, "teach")
    shutil.rmtree(project.cell("omniopd", 1, "teach"))
    project.edit(teach__replay=True)
    project.run(*words)  # everything is in the store
    empty = f"sqlite:///{project.folder / 'empty.sqlite'}"
    done = project.run(*words, check=False, JUDGMENTS_URL=empty)
    assert done.returncode == 2
    assert "answers are not in the store, the first at position" in done.stderr
    assert stored(empty) == 0


def fails(project, words, message):
    """The command fails with one paragraph that says `message`, and leaves nothing new."""
    out = folder(project, words)
    shutil.rmtree(out, ignore_errors=True)
    done = project.run(*words, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert not out.exists() or not any(path.is_file() for path in out.rglob("*"))


def test_a_missing_checkpoint_is_refused(project):
    shutil.rmtree(project.cell("base", 0, "policy") / "checkpoint")
    fails(project, command(project, "rollout"), "not a checkpoint, lacks config.json")


def test_a_truncated_table_is_refused(project):
    path = project.cell("omniopd", 1, "rollout") / "rollouts.parquet"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])
    fails(project, command(project, "forks"), "rollouts.parquet: not a whole Parquet file")


def test_a_table_of_another_stage_is_refused(project):
    words = command(project, "forks")
    other = project.cell("omniopd", 1, "score") / "scores.parquet"
    fails(project, [*words, "--rollouts", str(other)], "wrong table; missing ['prompt_id'")


def test_a_missing_table_is_refused(project):
    (project.cell("omniopd", 1, "forks") / "forks.parquet").unlink()
    fails(project, command(project, "score"), "forks.parquet: no such table")


def test_a_cell_that_the_plan_lacks_is_refused(project):
    words = command(project, "score")
    fails(project, [*words[:-1], "c00000000"], "has no score cell 'c00000000'")


def test_an_empty_prompt_set_is_refused(project):
    import pyarrow.parquet as pq

    path = project.cell("omniopd", 1, "rollout")
    words = command(project, "rollout")
    (prompts,) = project.folder.glob("data/prepare/*/prompts.parquet")
    table = pq.read_table(prompts)
    prompts.unlink()
    pq.write_table(table.slice(0, 0), prompts)
    fails(project, words, "split 'train' has 0 problems, wanted at least 8")
    assert not (path / "rollouts.parquet").exists()


def test_a_full_disk_leaves_nothing_behind(project):
    """A limit on the size of files stands in for the disk: the system refuses the write alike.

    No process that was forked elsewhere would have it.
    """
    words = command(project, "train")
    out = folder(project, words)
    shutil.rmtree(out)

    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write fails instead of killing
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    done = subprocess.run(
        words,
        cwd=project.folder,
        env=project.environment(**{fork_server.ENV: ""}),
        capture_output=True,
        text=True,
        preexec_fn=no_room,
        check=False,
    )
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists() or not any(path.is_file() for path in out.rglob("*"))


def test_bad_params_stop_the_command_in_one_paragraph(tmp_path):
    project = Project(tmp_path / "project")
    project.edit(train__lr="fast")
    done = project.run("omniopd", "plan", check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "train.lr: found 'fast', wanted" in done.stderr
    assert not (project.folder / "dag").exists()


@pytest.mark.slow
def test_plain_repro_leaves_the_lock_of_the_flow(small, tmp_path):
    project = Project(tmp_path / "project")
    project.edit(experiment__arms=["omniopd", "sft", "shuffled-scores"])
    project.repro()

    def comparable(found):
        stages = found.locked()
        return {
            name: {
                **stage,
                "outs": found.files(name),
                "deps": [d for d in stage.get("deps", []) if d["path"] != "params.yaml"],
            }
            for name, stage in stages.items()
            if not name.startswith("report")
        }

    assert comparable(project) == comparable(small)  # whose cells all but the report the flow ran
    assert project.flow() == []
