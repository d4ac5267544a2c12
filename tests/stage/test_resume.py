"""A killed stage goes on from what it kept and ends in the bytes of an undisturbed one."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save

from pipeline.config.params import Runtime
from pipeline.core.errors import STATUS, UserError
from pipeline.stage import cells, resume
from tests.project import Project
from tests.telling import killed

pytestmark = pytest.mark.usefixtures("warm")
SEED = 20260
TINY = {"kind": "llama", "hidden": 16, "layers": 1, "heads": 2, "mlp": 32}
RESUMED = "goes on after"


class Stage:
    """One cell of a project, as processes of its own."""

    def __init__(self, project, name):
        self.project, self.name = project, name
        self.group, _, self.key = name.partition("@")
        self.stage = self.group.partition("-")[0]
        self.out = project.folder / "data" / self.stage / self.key
        self.kept = project.folder / ".resume" / f"{self.stage}-{self.key}"
        self.command = project.locked()[name]["cmd"]
        self.log = project.folder / "stage.log"

    def start(self):
        """A process of it; its outs are removed first, as DVC does."""
        for out in self.project.locked()[self.name]["outs"]:
            path = self.project.folder / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with self.log.open("w") as log:
            return subprocess.Popen(
                shlex.split(self.command),
                cwd=self.project.folder,
                env=self.project.environment(),
                stderr=log,
            )

    def run(self):
        """What an undisturbed process says."""
        assert self.start().wait() == 0, self.log.read_text()
        return self.log.read_text()

    def refused(self):
        """What a process says that ends with the status of bad input."""
        assert self.start().wait() == STATUS
        return self.log.read_text()

    def killed_at_work(self, seconds):
        """What a process says that is killed so long after its work began; None if it ended."""
        fresh, process = not any(self.kept.glob("*.safetensors")), self.start()
        while process.poll() is None and not self.at_work(fresh):
            time.sleep(0.005)
        time.sleep(seconds)
        status, said = killed(process), self.log.read_text()
        assert status in (0, -signal.SIGKILL), said
        return said if status else None

    def at_work(self, fresh):
        return any(self.kept.glob("*.safetensors")) if fresh else RESUMED in self.log.read_text()

    def killed_with(self, pattern):
        """Kill a process when a file of this pattern has been kept."""
        process = self.start()
        while not any(self.kept.glob(pattern)):
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.005)
        killed(process)

    def outs(self):
        """Bytes of all that the stage wrote but the seconds that it took."""
        files = sorted(path for path in self.out.rglob("*") if path.is_file())
        return {str(x.relative_to(self.out)): x.read_bytes() for x in files if x.name != "run.json"}

    def counts(self):
        run = json.loads((self.out / "run.json").read_text())
        return {k: v for k, v in run.items() if "seconds" not in k}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A project whose stages take some seconds, run without a disturbance. Copy it."""
    project = Project(tmp_path_factory.mktemp("resume") / "done")
    models = {
        name: {"init": TINY, "steps": steps, "batch_size": 8, "lr": 1e-2}
        for name, steps in (("careful", 5), ("sloppy", 1500))
    }
    project.edit(
        experiment__arms=["opd"],
        teachers={"carries": {"kind": "local", "model": "careful"}},
        arms={"omniopd": {}, "opd": {"train": {"objective": "opd"}}},
        pretrain__models=models,
        rollout__prompts_per_round=40,
        rollout__samples_per_prompt=8,
        train__batch_size=4,
        train__epochs=6,
        evaluate__samples=8,
        runtime={"batch_tokens": 128, "keep_seconds": 0},
    )
    project.run("omniopd", "plan")
    plan = project.plan()["cells"]
    names = [f"{group}@{key}" for group in ("train-opd", "evaluate") for key in plan[group]]
    project.run("dvc", "repro", *map(project.address, names))
    assert not (project.folder / ".resume").exists()  # keep_seconds is 0
    return project


@pytest.fixture
def stage(done, tmp_path):
    """A stage of a copy of the project, by its group, which keeps what it can."""
    project = done.copy(tmp_path / "project")
    project.edit(runtime__keep_seconds=0.01)

    def named(group):
        names = project.locked()
        return Stage(project, next(name for name in names if name.startswith(f"{group}@")))

    return named


def disturbed(found, kills):
    """Kill a stage at random moments of its work, run it to its end, and compare."""
    before, counts = found.outs(), found.counts()
    draw, longest = random.Random(SEED), 0.6
    seen = []
    while len(seen) < kills:
        said = found.killed_at_work(draw.uniform(0, longest))
        if said is None:  # it had ended before: once more, from the beginning, and sooner
            assert found.outs() == before
            longest /= 2
            continue
        seen.append(re.findall(f"{RESUMED} .*", said))
    found.run()
    assert len({str(lines) for lines in seen}) > kills // 3, seen  # it went on from many places
    assert found.outs() == before
    assert found.counts() == counts
    left = [path.name for path in found.out.iterdir() if path.name.startswith(".")]
    assert not left
    assert not (found.project.folder / ".resume").exists()


@pytest.mark.parametrize(
    ("group", "kills"),
    [
        ("train-opd", 2),
        pytest.param("train-opd", 10, marks=pytest.mark.slow),
        pytest.param("rollout", 10, marks=pytest.mark.slow),
    ],
)
def test_train_and_rollout_killed_at_random_moments_end_in_the_same_bytes(stage, group, kills):
    disturbed(stage(group), kills)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["evaluate", "pretrain"])
def test_so_do_evaluate_and_pretrain(stage, group):
    disturbed(stage(group), 4)


@pytest.mark.slow
def test_dvc_goes_on_with_a_killed_train_stage_and_the_lock_is_the_same(stage):
    found = stage("train-opd")
    project = found.project
    before = project.files(found.name)
    found.killed_with("*.safetensors")
    done = project.run("dvc", "repro", "--force", "--single-item", project.address(found.name))
    assert RESUMED in done.stderr
    assert project.files(found.name) == before
    assert not (project.folder / ".resume").exists()
    assert ".resume" not in project.run("git", "status", "--short", "-uall").stdout


def test_what_is_kept_of_other_inputs_or_damaged_is_named_removed_and_not_used(stage):
    found = stage("train-opd")
    before = found.outs()
    found.killed_with("*.safetensors")
    (path,) = found.kept.glob("*.safetensors")
    whole = path.read_bytes()

    def again(content, reason):
        found.kept.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        said = found.run()
        assert reason in said
        assert RESUMED not in said
        assert found.outs() == before
        assert not found.kept.exists()

    again(whole[: len(whole) // 2], "damaged")
    again(whole[:-5] + b"01234", "its checksum is another")
    code = found.project.folder / "pipeline/method/objectives/opd.py"
    text = code.read_text()
    code.write_text(text.replace("1.0)", "1.0 + 0.0)"))
    assert "Run `omniopd plan`" in found.refused()
    found.project.run("omniopd", "plan")
    again(whole, "of other params, inputs or code")
    code.write_text(f"# a comment\n{text}")
    found.project.run("omniopd", "plan")
    path.parent.mkdir(parents=True)
    path.write_bytes(whole)
    assert RESUMED in found.run()  # so that it was the edit that made the difference
    assert found.outs() == before


def test_changed_params_make_another_cell_and_the_plan_forgets_the_old_one(stage):
    found = stage("train-opd")
    found.killed_with("*.safetensors")
    found.project.edit(train__lr=2e-3)
    found.project.run("omniopd", "plan")
    assert not (found.project.folder / ".resume").exists()


def test_a_killed_cell_that_is_still_in_the_plan_is_not_forgotten(stage):
    found = stage("rollout")
    found.killed_with("*.safetensors")
    found.project.edit(train__lr=2e-3)
    found.project.run("omniopd", "plan")
    assert any(found.kept.iterdir())


@pytest.fixture
def state(tmp_path, monkeypatch):
    """What is kept of a cell whose inputs are one file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "check_code", lambda stage, key: None)
    (tmp_path / "input.bin").write_bytes(b"1")
    (tmp_path / "dag/cells/train").mkdir(parents=True)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/of.lock").write_text("")
    text = "{group: train, code: of, params: {lr: 1.0}, deps: [input.bin]}"
    (tmp_path / "dag/cells/train/c1.yaml").write_text(text)
    args = SimpleNamespace(cell="c1", out=tmp_path / "out")

    def opened(**runtime):
        resume.deps.cache_clear()
        return resume.State("train", args, Runtime(**{"keep_seconds": 1e-6, **runtime}))

    return opened


ROW = {"a": torch.tensor([0.1, 0.2])}


def test_tensors_and_values_come_back_to_the_last_bit(state):
    values = {"loss": 0.1 + 0.2, "steps": [1, 2]}
    tensors = {"scalar": torch.tensor(3), "empty": torch.zeros(0), "a": torch.randn(3, 5)}
    state().keep("train", tensors, values)
    found, told = state().kept("train")
    assert told == values
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("what", ["input", "params", "batch_tokens", "version"])
def test_whatever_can_change_a_bit_is_part_of_what_work_is_kept_for(state, what, monkeypatch):
    state().keep("train", ROW, None)
    assert state(keep_seconds=5.0).kept("train") is not None
    runtime = {}
    if what == "input":
        cells.Path("input.bin").write_bytes(b"2")
    if what == "params":
        path = cells.file("train", "c1")
        path.write_text(path.read_text().replace("1.0", "2.0"))
    if what == "batch_tokens":
        runtime = {"batch_tokens": 7}
    if what == "version":
        monkeypatch.setattr(resume.importlib.metadata, "version", lambda name: "0")
    found = state(**runtime)
    assert found.kept("train") is None
    assert not list(found.folder.iterdir())


def test_a_stage_that_ends_sooner_writes_nothing(state):
    found = state(keep_seconds=1000.0)
    assert not found.due()
    assert not state(keep_seconds=0.0).due()
    assert found.rows("r", 2, lambda done: iter([(0, ()), (1, ())])) == {0: (), 1: ()}
    found.remove()
    assert not resume.FOLDER.exists()


def test_rows_that_are_kept_are_not_made_again(state):
    rows = {i: (np.arange(i), np.full(2, i, np.float32)) for i in range(6)}

    def stream(done):
        asked.append(sorted(done))
        for index in rows.keys() - done:
            if index == 4 and len(asked) == 1:
                raise KeyboardInterrupt
            yield index, rows[index]

    asked = []
    with pytest.raises(KeyboardInterrupt):
        state().rows("r", 6, stream)
    found = state().rows("r", 6, stream)
    assert asked[0] == []
    assert asked[1]
    for index, (ids, values) in rows.items():
        assert found[index][0].tolist() == ids.tolist()
        assert found[index][1].tolist() == values.tolist()


def test_what_is_kept_at_once_lies_in_files_of_a_bounded_size(state, monkeypatch):
    monkeypatch.setattr(resume, "SHARD", 2)
    found, due = state(), iter([False, False, False, False, True])
    monkeypatch.setattr(found, "due", lambda: next(due))
    rows = {i: (np.arange(i),) for i in range(5)}
    found.rows("r", 5, lambda done: iter(rows.items()))
    files = sorted(found.folder.glob("r-*.safetensors"))
    assert [load_file(path)["index"].tolist() for path in files] == [[0, 1], [2, 3], [4]]
    again = state().rows("r", 5, lambda done: iter(()))
    assert {i: row[0].tolist() for i, row in again.items()} == {i: [*range(i)] for i in range(5)}


def test_a_full_disk_is_a_warning_and_leaves_what_was_kept_before(state, caplog):
    found = state()
    found.keep("train", ROW, 1)
    before = found._path("train").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        found.keep("train", ROW, 2)
    assert "nothing kept" in caplog.text
    assert "No space left" in caplog.text
    assert [path.read_bytes() for path in found.folder.iterdir()] == [before]


def test_code_that_is_edited_while_the_stage_runs_is_no_base_to_go_on_from(
    state, caplog, monkeypatch
):
    def other(stage, key):
        raise UserError("code/train-sft.lock is of other code")

    monkeypatch.setattr(cells, "check_code", other)
    found = state()
    found.keep("train", ROW, None)
    assert "nothing is kept to go on from: code/train-sft.lock is of other code" in caplog.text
    assert not found.due()
    assert not resume.FOLDER.exists()


def test_what_a_kill_left_half_written_is_cleared(state, tmp_path):
    state().keep("train", ROW, None)
    folder, out = resume.FOLDER / "train-c1", tmp_path / "out"
    (folder / ".train.safetensors.99999.tmp").write_bytes(b"half")
    (out / ".checkpoint.tmp").mkdir(parents=True)
    (out / ".optimizer.safetensors.99999.tmp").write_bytes(b"half")
    assert state().kept("train") is not None
    assert [path.name for path in folder.iterdir()] == ["train.safetensors"]
    assert not list(out.iterdir())


def test_weights_of_another_cell_are_no_weights_of_this_one(state):
    save(ROW, "elsewhere.safetensors")  # without our metadata
    folder = resume.FOLDER / "train-c1"
    folder.mkdir(parents=True)
    shutil.copy("elsewhere.safetensors", folder / "train.safetensors")
    assert state().kept("train") is None
    assert not list(folder.iterdir())
    assert load_file("elsewhere.safetensors")["a"].equal(ROW["a"])
