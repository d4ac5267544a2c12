"""`omniopd status` tells of each cell what DVC would do of it, beside whatever runs."""

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zc.lockfile
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from benchmarks import finished
from pipeline.commands.status import look, shown
from pipeline.core import dag_names, dvc_objects
from pipeline.data import schemas, tables
from pipeline.judgments import store
from pipeline.judgments.ledger import Entry
from pipeline.plan import expand
from pipeline.runner import dvc_project
from pipeline.runner.dag import lock_files, plan_files
from pipeline.runner.sharing import busy
from pipeline.stage import cells
from tests.project import MINIATURE, ROOT
from tests.telling import wait_for

HOLD = """
import sys
from pathlib import Path
import stages
log = stages.hold(Path(sys.argv[1]))
stages._tell(log)
log.say(what="train", done=3, total=12, per_second=1.5)
print("held", flush=True)
for line in sys.stdin:
    sys.stderr.write(line)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose every cell ran."""
    folder = tmp_path / "project"
    finished.now(folder, YAML(typ="safe", pure=True).load(MINIATURE.read_text()), ran=True)
    (folder / "params.yaml").write_text(MINIATURE.read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{folder / 'judgments.sqlite'}")
    (folder / ".dvc" / "tmp").mkdir()
    return folder


def states():
    return {one.cell: one.state for one in look.Looker().look().cells}


def named(states, *wanted):
    return {name for name, state in states.items() if state in wanted}


def the(found, stage, arm="omniopd"):
    """The arm's cell of a stage."""
    (key,) = (own[stage] for own in found["cells"]["arms"][arm]["seed-0"].values())
    return next(f"{g}@{key}" for g, own in found["cells"].items() if key in own)


def outs(name):
    stage, _, key = name.partition("@")
    folder = Path("data") / stage.partition("-")[0]
    return folder if name == dag_names.REPORT else folder / key


def agrees(states):
    """Whether DVC would not skip just those that are to be restored or to run, and until they are
    restored those that read them."""
    stale, reads = dvc_project.Project().stale(states), expand.upstream(plan_files.expanded())
    assert named(states, "ready", "cached", "failed") <= stale
    for name in named(states, "done") & stale:
        assert named(states, "cached") & reads[name]


@contextlib.contextmanager
def holding(folder):
    """A process that holds a cell as its stage does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_ran_is_done_and_what_is_only_in_the_cache_would_be_restored(project):
    found = states()
    assert set(found.values()) == {"done"}
    agrees(found)
    train = the(plan_files.expanded(), "train")
    shutil.rmtree(outs(train))
    shutil.rmtree("data/report")
    assert named(states(), "cached") == {train, dag_names.REPORT}
    agrees(states())
    shutil.rmtree(".dvc/cache")
    found = states()
    assert named(found, "ready") >= {train}
    assert found[the(plan_files.expanded(), "rollout")] == "done"


def test_changed_code_runs_one_cell_again_and_those_that_read_it_wait(project):
    train = the(plan_files.expanded(), "train")
    group = train.partition("@")[0]
    variant = plan_files.expanded()["cells"][group][train.partition("@")[2]]["code"]
    lock = Path("code") / f"{variant}.lock"
    lock.write_text("another\n")
    found = look.Looker().look()
    told = {one.cell: one for one in found.cells}
    assert told[train].state == "ready"
    assert told[train].reason == f"changed: {lock}"
    evaluate = told[the(plan_files.expanded(), "evaluate")]
    assert (evaluate.state, evaluate.waits_for) == ("waiting", (train,))
    agrees(states())


def test_new_params_make_new_cells_and_the_old_ones_come_from_the_run_cache(project):
    before = set(states())
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("beta: 0.1", "beta: 0.2"))
    assert look.STALE in look.Looker().look().notes
    plan_files.write()
    found = states()
    new = set(found) - before
    assert {name.partition("@")[0] for name in new} == {"train", "evaluate"}
    assert named(found, "ready", "waiting") == {*new, dag_names.REPORT}
    agrees(found)
    Path("params.yaml").write_text(text)
    plan_files.write()
    found = states()
    assert set(found) == before
    assert named(found, "cached") == {n for n in before if not outs(n).exists()}
    assert len(named(found, "cached")) == 4
    assert not named(found, "ready", "waiting")


def test_a_running_stage_is_a_process_with_steps_and_time_left_until_it_is_killed(project):
    train = the(plan_files.expanded(), "train")
    shutil.rmtree(outs(train))
    shutil.rmtree(".dvc/cache")
    looker = look.Looker()
    with holding(outs(train)) as process:
        found = looker.look()
        (one,) = [one for one in found.cells if one.state == "running"]
        assert (one.cell, one.writer.pid) == (train, process.pid)
        assert found.at_work
        assert ": train 3 of 12, 1.5/s, 6 s left" in shown.text(found, every=False)
        values = json.loads(shown.document(found))
        (told,) = [one for one in values["cells"] if one["state"] == "running"]
        assert told["progress"]["left_seconds"] == 6.0
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = looker.look()
        (one,) = [one for one in found.cells if one.cell == train]
        assert (one.state, one.reason) == ("failed", look.KILLED)
        assert not found.at_work


def test_a_running_train_cell_tells_its_loss_and_what_it_learns_from(project):
    found = plan_files.expanded()
    train, rollout, prior = (the(found, stage) for stage in ("train", "rollout", "prior"))
    shutil.rmtree(outs(train))
    shutil.rmtree(".dvc/cache")
    rows = [{"entropies": [1.0, 2.0, 6.0], "finish_reason": "length"}]
    rows += [{"entropies": [3.0], "finish_reason": "stop"}]
    _table(outs(rollout) / "rollouts.parquet", schemas.ROLLOUTS, rows)
    weights = [{"weight": 0.25}, {"weight": 0.5}]
    _table(outs(prior) / "targets.parquet", schemas.TARGETS, weights)
    kept = Path(".resume") / f"train-{train.partition('@')[2]}" / "train.safetensors"
    kept.parent.mkdir(parents=True)
    looker = look.Looker(tables=True)
    with holding(outs(train)):
        (one,) = [one for one in looker.look().cells if one.cell == train]
        means = {"entropy": 3.0, "length": 2.0, "truncated": 0.5, "weight": 0.375}
        assert one.training == means
        steps = [{"step": 0, "train/loss": 3.0}, {"step": 1, "train/loss": 1.5}]
        save_file({"weights": np.zeros(3)}, kept, {"values": json.dumps(steps)})
        text = shown.text(looker.look(), every=False)
        assert "; after step 2: loss 1.5; means: weight 0.375, entropy 3, length 2, " in text
        values = json.loads(shown.document(looker.look()))["cells"]
        (told,) = [one for one in values if one["cell"] == train]
        assert told["training"] == {"step": 2, "loss": 1.5, "losses": [3.0, 1.5], **means}
        kept.write_bytes(b"cut")
        (one,) = [one for one in looker.look().cells if one.cell == train]
        assert one.training == means


def _table(path, schema, rows):
    """A table whose other columns are of no matter."""
    empty = {pa.string(): "", pa.int32(): 0, pa.float64(): 0.0, pa.float32(): 0.0}
    others = {field.name: empty.get(field.type, []) for field in schema}
    tables.write(pa.Table.from_pylist([others | row for row in rows], schema), path, schema)


def test_the_rounds_of_an_arm_hold_the_cells_that_other_arms_have_too(project):
    found = look.Looker().look()
    own, other = (found.rounds[arm]["round-1"] for arm in ("omniopd", "shuffled-scores"))
    plan = plan_files.expanded()
    assert the(plan, "rollout") in own & other
    assert the(plan, "train") in own - other
    assert the(plan, "train", "shuffled-scores") in other - own
    assert {one.cell for one in found.cells} >= own | other


def test_a_failed_stage_is_told_with_its_reason_and_what_it_said_last(project):
    train = the(plan_files.expanded(), "train")
    shutil.rmtree(outs(train))
    shutil.rmtree(".dvc/cache")
    with holding(outs(train)) as process:
        process.communicate("on the way\nerror: found 1, wanted 2\n")
    found = look.Looker().look()
    text = shown.text(found, every=False)
    assert ": found 1, wanted 2" in text
    assert "    | on the way\n    | error: found 1, wanted 2" in text
    assert shown.text(found, every=True).count("@") > text.count("@")


def test_what_dvc_is_writing_into_its_run_cache_is_not_read(project):
    cache, entry = (
        dvc_objects.configured(),
        lock_files.entries(lock_files.read())[the(plan_files.expanded(), "train")],
    )
    lock_files.remember(cache, [entry])
    deps = [{name: dep[name] for name in ("path", "hash", "md5")} for dep in entry["deps"]]
    outs = [out["path"] for out in entry["outs"]]
    asked = {"cmd": entry["cmd"], "deps": deps, "outs": outs}
    (lock_files._runs(cache, asked) / ".half.tmp").touch()
    assert list(lock_files.remembered(cache, asked)) == [entry]


def test_it_waits_for_no_lock_and_takes_none(project):
    lock = zc.lockfile.LockFile(".dvc/tmp/lock")
    with busy.FLOW_LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = Path(".dvc/tmp/lock").read_bytes()
        assert set(states().values()) == {"done"}
        assert Path(".dvc/tmp/lock").read_bytes() == before
    lock.close()
    assert look.Looker().look().commands == []  # this process is no command that runs cells
    assert not Path("judgments.sqlite").exists()


def test_the_ledger_says_what_was_spent_and_run_json_which_draws_failed(project):
    with store.Store(store.url(), cells.project()) as found:
        found.enter(Entry(bought=3, requests=2, usd=1.25))
    teach = the(plan_files.expanded(), "teach")
    (outs(teach) / "run.json").write_text(
        json.dumps({"seconds": 90.0, "failed/refusal": 2, "failed": 2})
    )
    text = shown.text(look.Looker().look(), every=True)
    assert "$1.25, 2 requests, 3 answers bought" in text
    assert "2 draws failed (refusal 2)" in text
    assert "teach round 1, 1:30 min" in text


def watching(*words):
    command = [sys.executable, "-m", "pipeline.commands.entry", "status", "--watch", *words]
    environment = {**cells.os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_watch_ends_when_nothing_runs_and_by_an_interrupt_with_130(project):
    process = watching()
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("17 cells: 17 done")
    with holding(outs(the(plan_files.expanded(), "train"))):
        process = watching("--json", "--seconds", "0.5")
        assert json.loads(process.stdout.readline())["counts"]["running"] == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "what runs goes on" in errors


def test_a_flow_says_who_it_is_in_its_lock(project):
    code = (
        "import sys; from pipeline.runner.sharing import busy\nwith busy.alone(): sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
    )
    wait_for(lambda: busy.FLOW_LOCK.exists() and busy.FLOW_LOCK.read_text())
    (said,) = look.Looker().look().commands
    assert f"(process {process.pid})" in said
    process.communicate()
    assert look.Looker().look().commands == []
