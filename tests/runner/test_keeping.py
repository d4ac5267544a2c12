"""experiment.keep_checkpoints in real DVC, on a toy: one arm, three rounds, text as checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.commands import describe
from pipeline.core.errors import UserError
from pipeline.engines import checkpoints
from pipeline.plan import blocks, expand, experiment
from pipeline.runner import drop_weights, dvc_project, repro, retention
from pipeline.runner.dag import plan_files
from tests.project import BIN, ROOT

MAKE = """
set -e
echo {stage}@$2 >> ran
mkdir -p data/{stage}/$2
"""
STAGES = {  # commands: $1 is the stage's own script, $2 its key
    "pretrain": "mkdir data/pretrain/$2/checkpoint; echo base > data/pretrain/$2/checkpoint/model\n"
    "echo t > data/pretrain/$2/checkpoint/tokenizer.json\n"
    "echo none > data/pretrain/$2/optimizer.safetensors\n",
    "rollout": "cat $3/checkpoint/model > data/rollout/$2/rollouts.parquet\n",
    "forks": "wc -l < data/rollout/$3/rollouts.parquet > data/forks/$2/forks.parquet\n",
    "train": "mkdir data/train/$2/checkpoint; cp $3/checkpoint/* data/train/$2/checkpoint\n"
    "cat data/forks/$4/forks.parquet >> data/train/$2/checkpoint/model\n"
    "echo moments $2 | cat - $3/optimizer.safetensors > data/train/$2/optimizer.safetensors\n"
    "echo metrics > data/train/$2/metrics.jsonl; date +%N > data/train/$2/run.json\n",
    "evaluate": "cat setting $3/checkpoint/model > data/evaluate/$2/evals.parquet\n",
    "report": "cat data/train/*/run.json > data/report/results.md\n",
}
DAG = """
vars: [plan.json]
stages:
  plan: {cmd: mkdir -p data; touch data/plan.ok, outs: [data/plan.ok]}
  pretrain:
    foreach: ${cells.pretrain}
    do:
      cmd: sh pretrain.sh - ${key}
      deps: [data/plan.ok, pretrain.sh]
      outs: ["data/pretrain/${key}/checkpoint", "data/pretrain/${key}/optimizer.safetensors"]
  rollout:
    foreach: ${cells.rollout}
    do:
      cmd: sh rollout.sh - ${key} ${item.policy}
      deps: ["${item.policy}/checkpoint", rollout.sh]
      outs: ["data/rollout/${key}/rollouts.parquet"]
  forks:
    foreach: ${cells.forks}
    do:
      cmd: sh forks.sh - ${key} ${item.rollouts}
      deps: ["data/rollout/${item.rollouts}/rollouts.parquet", forks.sh]
      outs: ["data/forks/${key}/forks.parquet"]
  train:
    foreach: ${cells.train}
    do:
      cmd: sh train.sh - ${key} ${item.policy} ${item.forks}
      deps:
        - ${item.policy}/checkpoint
        - ${item.policy}/optimizer.safetensors
        - data/forks/${item.forks}/forks.parquet
        - train.sh
      outs:
        - data/train/${key}/checkpoint
        - data/train/${key}/optimizer.safetensors
        - data/train/${key}/metrics.jsonl
        - data/train/${key}/run.json
  evaluate:
    foreach: ${cells.evaluate}
    do:
      cmd: sh evaluate.sh - ${key} ${item.policy}
      deps: ["${item.policy}/checkpoint", evaluate.sh, setting]
      outs: ["data/evaluate/${key}/evals.parquet"]
  report:
    foreach: ${cells.report}
    do: {cmd: sh report.sh - "", deps: [data/train, data/evaluate, report.sh], outs: [data/report]}
"""
RUN = """
import json, logging, sys
from pipeline.runner.dag import plan_files as dag
from pipeline.runner import cell_graph, flow, retention as keeping, repro
how, what, shared = sys.argv[1:]
logging.basicConfig(level=logging.INFO)  # as the command `omniopd` does
found = json.load(open("plan.json"))
keep = keeping.of(found, what)
# the toy has all its stages in one dvc.yaml, of DVC's kind foreach
repro.dag_files.folders = lambda found: dict.fromkeys(repro.expand.upstream(found))
repro.dag_names.address = lambda _, name: name
class Plain(flow._Flow):  # nobody is shown it
    def run(self, results):
        try:
            self.schedule()
        finally:
            self.project.settle(self.done)
        self.complain()
if how == "plain":
    flow._Flow, how = Plain, "run"
if how == "run":
    while not flow.run_graph(cell_graph.graph(found, False), 2, keep=keep, shared=bool(shared)):
        print("once more")
elif how == "drop":
    print(repro.drop(found, keep, bool(shared)))
else:
    repro.keeping_repro(found, keep, dag.environment(), bool(shared))
"""


def planned(rounds: int) -> dict[str, Any]:
    """A plan of one arm whose every round is evaluated."""
    cells: dict[str, Any] = {group: {} for group in expand.GROUPS}
    cells["pretrain"]["c0p"] = {"params": {}}
    policy, arm = "data/pretrain/c0p", {}
    for r in range(1, rounds + 1):
        cells["rollout"][f"c{r}r"] = {"policy": policy}
        cells["forks"][f"c{r}f"] = {"rollouts": f"c{r}r"}
        cells["train"][f"c{r}t"] = {"policy": policy, "forks": f"c{r}f"}
        policy = f"data/train/c{r}t"
        cells["evaluate"][f"c{r}e"] = {"policy": policy}
        arm[f"round-{r}"] = {"train": f"c{r}t", "evaluate": f"c{r}e"}
    cells["report"]["report"] = {"params": {}}
    links = {"arms": {"omniopd": {"seed-0": arm}}, "branches": {}, "held_out": {}}
    return {"cells": {**cells, **links}}


class Toy:
    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for stage, commands in STAGES.items():
            (folder / f"{stage}.sh").write_text(MAKE.format(stage=stage) + commands)
        (folder / "setting").write_text("1\n")
        (folder / "dvc.yaml").write_text(DAG)
        (folder / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
        self.rounds(3)
        self.dvc("init", "-q", "--no-scm")
        if cache is not None:
            self.dvc("cache", "dir", "-q", str(cache))

    def rounds(self, count: int) -> None:
        found = planned(count)
        (self.folder / "plan.json").write_text(json.dumps(found))

    def copy(self, folder: Path) -> "Toy":
        found = object.__new__(Toy)
        found.folder = folder
        shutil.copytree(self.folder, folder)
        return found

    def python(self, *words: str) -> tuple[int, str]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    def dvc(self, *words: str) -> str:
        status, said = self.python("-m", "dvc", *words)
        assert status == 0, said
        return said

    def go(self, how: str, what: str = "last", shared: str = "", status: int = 0) -> list[str]:
        """What ran, sorted."""
        (self.folder / "ran").unlink(missing_ok=True)
        found, self.said = self.python("-c", RUN, how, what, shared)
        assert found == status, self.said
        return self.ran()

    def ran(self) -> list[str]:
        path = self.folder / "ran"
        return sorted(path.read_text().split()) if path.is_file() else []

    def weights(self) -> set[str]:
        """Cells whose checkpoint and moments are there, and of none a half."""
        both = [{p.parent.name for p in self.folder.glob(f"data/train/*/{w}")} for w in
                retention.WEIGHTS]  # fmt: skip
        assert both[0] == both[1]
        return both[0]

    def objects(self, cache: Path | None = None) -> list[str]:
        """The content of all files in the cache."""
        folder = (cache or self.folder / ".dvc/cache") / "files/md5"
        return sorted(p.read_text() for p in folder.glob("*/*") if p.suffix != ".dir")

    def lock(self) -> Any:
        return YAML(typ="safe").load((self.folder / "dvc.lock").read_text())["stages"]

    def weights_locked(self) -> dict[str, str]:
        outs = [o for name, s in self.lock().items() if name.startswith("train") for o in s["outs"]]
        return {o["path"]: o["md5"] for o in outs if Path(o["path"]).name in retention.WEIGHTS}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy after a flow with keep_checkpoints: last. Copy it before changing it."""
    toy = Toy(tmp_path_factory.mktemp("kept") / "toy")
    assert len(toy.go("run")) == 1 + 3 * 4 + 1
    return toy


@pytest.fixture
def toy(kept: Toy, tmp_path: Path) -> Toy:
    return kept.copy(tmp_path / "toy")


def nothing_runs(toy: Toy) -> None:
    before = toy.lock()
    for command in ("plain", "repro"):
        assert toy.go(command) == []
    (toy.folder / "ran").unlink(missing_ok=True)
    assert "up to date" in toy.dvc("repro", "--allow-missing")
    assert toy.ran() == []
    assert toy.lock() == before


def test_only_the_last_round_is_left_in_folder_and_cache_and_nothing_runs_again(toy: Toy) -> None:
    assert toy.weights() == {"c3t"}
    objects = toy.objects()
    assert [x for x in objects if x.startswith("moments")] == [
        "moments c3t\nmoments c2t\nmoments c1t\nnone\n"
    ]
    assert objects.count("t\n") == 1  # the tokenizer, which the last round and the base have
    assert "metrics\n" in objects
    lines = [len(x.splitlines()) for x in objects if x.startswith("base")]
    # of the rollouts of three rounds (the second's is the first checkpoint) and the last checkpoint
    assert sorted(lines) == [1, 2, 3, 4]
    nothing_runs(toy)


def test_one_round_more_runs_that_round_and_drops_the_one_before(toy: Toy) -> None:
    toy.rounds(4)
    assert toy.go("plain") == sorted(
        ["rollout@c4r", "forks@c4f", "train@c4t", "evaluate@c4e", "report@"]
    )
    assert toy.weights() == {"c4t"}


@pytest.mark.parametrize("how", ["plain", pytest.param("repro", marks=pytest.mark.slow)])
def test_what_changed_cells_read_is_trained_again_and_dropped_again(toy: Toy, how: str) -> None:
    before = toy.weights_locked()
    (toy.folder / "setting").write_text("2\n")
    status, said = toy.python("-m", "dvc", "repro", "--allow-missing")
    assert status != 0
    assert "data/train/c1t/checkpoint" in said
    assert toy.go(how) == sorted(
        ["evaluate@c1e", "evaluate@c2e", "evaluate@c3e", "train@c1t", "train@c2t", "report@"]
    )
    setting = "experiment.keep_checkpoints"
    assert f"{setting} dropped" in toy.said or f"dropped by {setting}" in toy.said
    assert toy.weights_locked() == before
    assert toy.weights() == {"c3t"}
    nothing_runs(toy)


@pytest.mark.parametrize("how", ["plain", pytest.param("repro", marks=pytest.mark.slow)])
def test_a_dropped_checkpoint_that_turns_out_to_be_read_is_made_when_it_does(
    toy: Toy, how: str
) -> None:
    """The new forks of round 1 equal the old ones, so train@c1t is unchanged; those of 2 do not."""
    own = toy.folder / "forks.sh"
    own.write_text(own.read_text() + "[ $2 = c1f ] || echo more >> data/forks/$2/forks.parquet\n")
    ran = toy.go(how)
    assert ran.count("train@c1t") == 1
    assert {"train@c2t", "train@c3t", "evaluate@c2e"} <= set(ran)
    assert "evaluate@c1e" not in ran
    assert toy.weights() == {"c3t"}


@pytest.mark.slow
def test_an_edit_that_changes_no_table_trains_nothing_again(toy: Toy) -> None:
    own = toy.folder / "forks.sh"
    own.write_text(own.read_text() + "# a comment\n")
    assert set(toy.go("plain")) == {"forks@c1f", "forks@c2f", "forks@c3f"}


@pytest.mark.slow
def test_keep_all_brings_back_the_same_bytes_and_the_run_cache_no_empty_ones(toy: Toy) -> None:
    before = toy.weights_locked()
    (toy.folder / "ran").unlink(missing_ok=True)
    said = toy.dvc("repro")
    assert {"train@c1t", "train@c2t"} <= set(toy.ran())
    assert "Stage 'train@c1t' is cached" not in said
    assert toy.weights_locked() == before
    assert toy.weights() == {"c1t", "c2t", "c3t"}
    assert toy.go("plain", "all") == []
    # and plain `dvc repro`, then the command
    assert toy.go("drop", "every:2") == []
    assert toy.weights() == {"c2t", "c3t"}
    assert toy.go("drop", "last") == []
    assert toy.weights() == {"c3t"}
    assert "up to date" in toy.dvc("repro", "--allow-missing")


def test_a_checkpoint_stays_while_a_cell_that_reads_it_is_not_done(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "toy")
    own = toy.folder / "evaluate.sh"
    own.write_text("[ $2 != c1e ] || [ -e go ] || exit 1\n" + own.read_text())
    toy.go("plain", status=1)
    assert toy.weights() == {"c1t", "c3t"}
    toy.go("drop")
    assert toy.weights() == {"c1t", "c3t"}
    (toy.folder / "go").touch()
    assert toy.go("plain") == ["evaluate@c1e", "report@"]
    assert toy.weights() == {"c3t"}


def test_a_cache_that_others_may_share_is_left_alone_unless_told(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    toy = Toy(tmp_path / "toy", cache)
    toy.dvc("repro", "-q")
    everything = toy.objects(cache)
    toy.go("repro")
    assert "not in the shared cache" in toy.said
    assert toy.weights() == {"c3t"}
    assert toy.objects(cache) == everything
    (toy.folder / "setting").write_text("2\n")  # then they come from there
    assert [name for name in toy.go("plain") if name.startswith("train")] == []
    toy.dvc("repro", "-q")
    toy.go("drop", shared="yes")
    assert len([x for x in toy.objects(cache) if x.startswith("moments")]) == 1


class Killed(BaseException):
    pass


def test_dropping_that_is_killed_leaves_whole_checkpoints_or_none_and_is_finished_later(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.dvc("repro", "-q")
    straight = toy.copy(tmp_path / "straight")
    straight.go("drop")
    whole = list(toy.folder.glob("data/train/*/checkpoint/*"))
    assert len(whole) == 6
    kept = retention.of(planned(3), "last")
    for moment in range(99):
        one = toy.copy(tmp_path / f"killed-{moment}")
        monkeypatch.chdir(one.folder)
        project, calls = dvc_project.Project(kept), 0

        def step(real: Any, moment: int = moment) -> Any:
            def counted(*words: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > moment:
                    raise Killed
                return real(*words, **named)

            return counted

        try:
            with monkeypatch.context() as patched:
                for name in ("unlink", "rename"):
                    patched.setattr(Path, name, step(getattr(Path, name)))
                patched.setattr(drop_weights.shutil, "rmtree", step(shutil.rmtree))
                project._dropping.drop(list(kept.readers), "last")
        except Killed:
            for name in kept.readers:
                for path in retention.weights(name):
                    files = [p for p in whole if p.is_relative_to(toy.folder / path)]
                    there = [one.folder / p.relative_to(toy.folder) for p in files]
                    assert all(p.exists() for p in there) or not path.exists()
            stale = dvc_project.Project(kept).stale(expand.upstream(planned(3)))
            assert stale <= {"report@report"}  # which depends on the folder that they left
        repro.drop(planned(3), kept, False)
        assert one.weights() == {"c3t"}
        assert one.objects() == straight.objects()
        assert not (one.folder / ".resume").exists()
        if calls <= moment:
            break
    assert moment > 8


def test_people_are_told_that_it_was_dropped(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    with pytest.raises(UserError, match=r"c1t/checkpoint: not there. .* experiment.keep_\w+: last"):
        checkpoints.check(Path("data/train/c1t/checkpoint"))
    found = planned(3)
    shown = " ".join(describe.show(found, "c1t").split())
    assert "dropped by experiment.keep_checkpoints: last" in shown
    assert "dropped" not in describe.show(found, "c3t")
    assert "- c2t" in describe.show(found, "omniopd")
    assert "2 have none now" in retention.line(retention.of(found, "last"))
    assert retention.line(retention.of(found, "all")) == ""


def test_a_dropped_cell_that_the_plan_no_longer_has_is_pruned(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy.folder)
    assert plan_files.pruned("train-c2t", toy.lock()["train@c2t"])
    assert not (toy.folder / "data/train/c2t").exists()


@pytest.mark.parametrize(
    ("what", "gone"),
    [("all", set()), ("every:2", {1, 3}), ("every:3", {1, 2, 4}), ("last", {1, 2, 3, 4})],
)
def test_branches_read_the_checkpoints_of_their_rounds(what: str, gone: set[int]) -> None:
    settings = experiment.read_yaml(ROOT / "tests" / "miniature.yaml")
    settings["experiment"] |= {"rounds": 5, "branch": ["shuffled-scores"], "keep_checkpoints": what}
    settings["experiment"]["arms"] = ["omniopd"]
    settings["prepare"]["train"] = 64
    read = blocks.validated(blocks.Experiment, settings, "here")
    found = expand.expand(read)
    keep = retention.of(found, what)
    arms = expand.named(found)
    main = {r: arms["omniopd"]["seed-0"][f"round-{r}"] for r in range(1, 6)}
    branch = {r: arms["omniopd+shuffled-scores"]["seed-0"][f"round-{r}"] for r in range(1, 6)}
    wanted = {f"train@{side[r]['train']}" for side in (main, branch) for r in gone}
    assert set(keep.readers) == wanted
    for r in gone:
        after = {stage: main[r + 1][stage] for stage in ("rollout", "train")}
        read_by = {f"{stage}@{key}" for stage, key in after.items()}
        read_by |= {f"train@{branch[r + 1]['train']}", f"evaluate@{main[r]['evaluate']}"}
        assert keep.readers[f"train@{main[r]['train']}"] == read_by
        assert keep.readers[f"train@{branch[r]['train']}"] == {f"evaluate@{branch[r]['evaluate']}"}
    settings["experiment"] |= {"keep_checkpoints": "all"}
    same = expand.expand(blocks.validated(blocks.Experiment, settings, "here"))
    assert same == found  # it is of no cell


def test_cells_of_several_steps_lose_their_checkpoints_too() -> None:
    settings = experiment.read_yaml(ROOT / "tests" / "miniature.yaml")
    settings["experiment"] |= {"rounds": 5, "steps_per_cell": 2, "arms": ["omniopd"]}
    settings["prepare"]["train"] = 64
    found = expand.expand(blocks.validated(blocks.Experiment, settings, "here"))
    arm = found["cells"]["arms"]["omniopd"]["seed-0"]
    keys = [arm[f"round-{r}"]["train"] for r in (2, 4, 5)]
    keep = retention.of(found, "last")
    assert set(keep.readers) == {f"steps@{key}" for key in keys[:2]}
    assert keep.readers[f"steps@{keys[0]}"] >= {f"steps@{keys[1]}"}
    assert retention.weights(f"steps@{keys[0]}")[0] == Path(f"data/train/{keys[0]}/checkpoint")
    assert set(retention.of(found, "every:4").readers) == {f"steps@{keys[0]}"}


@pytest.mark.parametrize("what", ["every:0", "first", "every", "every:-1"])
def test_another_keep_is_refused(what: str) -> None:
    settings = experiment.read_yaml(ROOT / "tests" / "miniature.yaml")
    settings["experiment"]["keep_checkpoints"] = what
    with pytest.raises(UserError, match=r"experiment\.keep_checkpoints: found"):
        blocks.validated(blocks.Experiment, settings, "here")
    assert repro.drop(planned(2), retention.of(planned(2), "all"), False).endswith(
        "every round is kept"
    )
