"""What reruns and what does not, shown by the stages that DVC itself says it ran."""

import contextlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.core.dag_names import REPORT
from pipeline.plan import expand as plan
from pipeline.plan import experiment
from pipeline.runner.dag import plan_files
from tests.project import MINIATURE, ROOT, ran

pytestmark = pytest.mark.usefixtures("warm")
AGAIN = {"plan": 1, "report": 1}


@pytest.fixture
def project(small, tmp_path):
    return small.copy(tmp_path / "project")


def groups(names):
    return Counter(name.partition("@")[0] for name in names)


def answers_bought(project, name):
    run = json.loads(
        (project.folder / "data/teach" / name.partition("@")[2] / "run.json").read_text()
    )
    return run["bought"]


def test_every_cell_of_the_plan_ran_once(full):
    wanted = set(plan.upstream(full.plan())) | {"plan"}
    assert set(full.ran) == wanted
    assert len(full.ran) == len(wanted)


def test_fewer_arms_run_nothing_but_the_report(small):
    assert groups(small.ran) == AGAIN


def test_nothing_changed_runs_nothing(project):
    assert project.repro() == []


@pytest.mark.slow
def test_train_lr_reruns_train_onward_and_reverting_reruns_nothing(project):
    project.edit(train__lr=2e-3)
    assert groups(project.repro()) == AGAIN | {"train": 2, "train-sft": 1, "evaluate": 3}
    project.revert()
    assert project.repro() == []


@pytest.mark.slow
def test_alpha_reruns_prior_onward(project):
    project.edit(prior__alpha=2.0)
    assert groups(project.repro()) == AGAIN | {"prior": 2, "train": 2, "evaluate": 2}


def test_the_metric_reruns_score_onward_and_asks_nothing(project):
    project.edit(score__metric="prefix")
    assert groups(project.repro()) == AGAIN | {"score": 2, "prior": 2, "train": 2, "evaluate": 2}


@pytest.mark.slow
def test_what_is_calibrated_reruns_calibration_alone(project):
    project.edit(calibrate={"metrics": ["exact", "edit"], "chunk_tokens": [6]})
    assert groups(project.repro()) == AGAIN | {"calibrate": 1}
    project.edit(calibrate={"rounds": "none"})
    assert groups(project.repro()) == AGAIN
    assert "## Calibration" not in (project.folder / "data/report/results.md").read_text()
    project.revert()
    assert project.repro() == []


@pytest.mark.slow
def test_the_learning_rate_of_one_arm_reruns_that_arm(project):
    project.edit(arms__omniopd={"train": {"lr": 3e-3}})
    names = project.repro()
    assert groups(names) == AGAIN | {"train": 1, "evaluate": 1}
    assert project.cell("omniopd", 1, "train").name in {n.partition("@")[2] for n in names}


def ledger(project):
    return project.run("omniopd", "judgments", "stats", "--json").stdout


def test_a_control_more_reuses_rollouts_forks_and_answers_and_asks_nothing(project):
    before = ledger(project)
    project.edit(experiment__arms=["omniopd", "sft", "shuffled-scores", "new"])
    project.edit(arms__new={"score": {"source": "shuffled"}, "prior": {"alpha": 0.5}})
    assert groups(project.repro()) == AGAIN | {"prior": 1, "train": 1, "evaluate": 1}
    for stage in ("rollout", "forks", "teach", "score"):
        assert project.cell("new", 1, stage) == project.cell("shuffled-scores", 1, stage)
    assert ledger(project) == before


@pytest.mark.slow
def test_branches_of_a_finished_experiment_run_only_their_cells_and_ask_nothing(project):
    project.edit(experiment__arms=["omniopd"], experiment__rounds=2)
    project.repro()
    report = project.folder / "data/report"
    before, last = ledger(project), json.loads((report / "results.json").read_text())
    project.edit(experiment__branch=["shuffled-scores", "constant-scores"])
    # what round 1 shares with the arms of these names is in DVC's cache
    assert groups(project.repro()) == AGAIN | {
        "score": 1, "prior": 1, "prior-control": 1, "train": 2, "evaluate": 2,
    }  # fmt: skip
    assert ledger(project) == before
    rows = json.loads((report / "results.json").read_text())
    assert [row for row in rows if row["round"] != 1] == last
    effects = json.loads((report / "branches.json").read_text())
    places = {(row["control"], row["round"]) for row in effects}
    assert places == {(c, r) for c in ("shuffled-scores", "constant-scores") for r in (1, 2)}
    sampled = {row["round"]: row["accuracy"] for row in rows if row["decoding"] == "sampled"}
    for row in effects:
        assert row["real_accuracy"] == pytest.approx(sampled[row["round"]])
        assert row["diff"] == pytest.approx(row["real_accuracy"] - row["control_accuracy"])
    assert "What the scores did" in (report / "results.md").read_text()
    assert (report / "branches.png").stat().st_size > 0
    link = project.folder / "data/arms/omniopd+constant-scores/seed-0/round-2/train/checkpoint"
    assert link.is_dir()
    assert "prior:" in project.run("omniopd", "show", "omniopd+constant-scores").stdout


def test_one_round_more_runs_only_the_new_one_and_reverting_runs_nothing(project):
    project.edit(experiment__rounds=2)
    names = project.repro()
    assert groups(names) == AGAIN | {
        "rollout": 2, "forks": 2, "teach": 2, "teach-solutions": 1, "score": 2, "prior": 2,
        "train": 2, "train-sft": 1, "evaluate": 3,
    }  # fmt: skip
    assert not {n for n in names if (project.folder / "data/teach" / n).exists()}
    project.revert()
    assert project.repro() == []


@pytest.mark.slow
def test_fewer_samples_ask_for_nothing(project):
    project.edit(teach__samples=2)
    (name,) = [n for n in project.repro() if n.startswith("teach@")]
    assert answers_bought(project, name) == 0


def test_lost_outputs_are_restored_from_the_cache(project):
    before = (project.folder / "data/report/results.json").read_bytes()
    lock = project.locked()
    shutil.rmtree(project.folder / "data")
    assert project.repro() == []
    assert (project.folder / "data/report/results.json").read_bytes() == before
    assert project.locked() == lock


@pytest.mark.slow
def test_settings_that_cannot_change_a_result_rerun_nothing(project):
    project.edit(runtime__batch_tokens=4096, teach__replay=True)
    assert set(groups(project.repro())) == {"plan"}


@pytest.mark.slow
def test_pruning_keeps_only_the_plan_and_names_what_the_cache_lacks(project):
    stranger = project.cell("sft", 1, "train")
    project.edit(experiment__arms=["omniopd"])
    project.run("omniopd", "plan")
    assert not stranger.exists()
    kept = {name for name in project.locked() if name != "plan"}
    assert kept == set(plan.upstream(project.plan()))
    uncached = project.cell("omniopd", 1, "prior")
    md5 = project.locked()[f"prior@{uncached.name}"]["outs"]
    for out in md5:
        (project.folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()
    project.edit(prior__alpha=3.0)
    done = project.run("omniopd", "plan")
    assert uncached.exists()
    assert "whose outs the cache lacks" in done.stderr


def test_a_stale_plan_stops_everything(project):
    project.edit(train__lr=5e-3)
    done = project.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "is not what params.yaml means now" in done.stderr or "does not exist" in done.stderr
    assert groups(ran(done.stdout)) == {"plan": 1}


def test_the_arms_are_linked_for_people(small):
    link = small.folder / "data/arms/omniopd/seed-0/round-1/rollout/rollouts.parquet"
    assert link.resolve() == (small.cell("omniopd", 1, "rollout") / "rollouts.parquet").resolve()
    assert (small.folder / "data/arms/base/seed-0/round-0/evaluate/evals.parquet").is_file()


def test_show_explains_a_cell_and_an_arm(small):
    key = small.cell("omniopd", 1, "train").name
    shown = small.run("omniopd", "show", key).stdout
    assert f"train@{key}" in shown
    assert "lr: 0.001" in shown
    assert "omniopd seed-0 round-1" in shown
    assert key in small.run("omniopd", "show", "omniopd").stdout
    done = small.run("omniopd", "show", "nobody", check=False)
    assert done.returncode == 2
    assert "neither a cell nor an arm" in done.stderr


def test_every_group_has_cells_in_the_full_miniature(full):
    elsewhere = {"teach-hosted", "teach-hosted-solutions"}  # in test_hosted
    elsewhere |= {"prepare-rows", "prepare-hub"}  # in test_extending_task
    elsewhere |= {"teach-hosted-judge", "teach-judge"}  # the first in test_from_nothing
    elsewhere |= {"rollout-sandbox", "evaluate-sandbox", "train-matched"}
    elsewhere |= {group for group in plan.GROUPS if "-vllm" in group}  # in test_vllm
    elsewhere |= {group for group in plan.GROUPS if group.startswith("steps")}  # in test_steps
    only_count = {"prior-3", "prior-4"}  # prior-2 with more tables
    assert set(groups(full.ran)) == {*plan.GROUPS, "plan"} - elsewhere - only_count


def test_what_a_cell_loads_is_within_what_its_lock_says(full):
    lock = full.locked()
    for name in lock.keys() - {"plan"}:
        (dep,) = (dep["path"] for dep in lock[name]["deps"] if dep["path"].startswith("code/"))
        group, _, key = name.partition("@")
        assert dep == f"code/{full.plan()['cells'][group][key]['code']}.lock"
        assert full.loaded(name) <= full.reached(name)


def expand(tmp_path: Path, edit) -> dict:
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    edit(values)
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return plan.expand(experiment.load(tmp_path / "params.yaml"))


def test_cells_are_named_by_content_and_never_read_as_numbers(tmp_path):
    found = expand(tmp_path, lambda values: None)
    keys = [name.partition("@")[2] for name in plan.upstream(found) if name != REPORT]
    assert all(re.fullmatch(r"c[0-9a-f]{8}", key) for key in keys)
    assert len(set(keys)) == len(keys)
    renamed = expand(
        tmp_path,
        lambda v: (
            v["arms"].update(other=v["arms"].pop("shuffled-scores")),
            v["experiment"].update(arms=["omniopd", "other"]),
        ),
    )
    assert found["cells"]["train"] == renamed["cells"]["train"]


def test_everything_lies_under_one_key(tmp_path):
    assert list(expand(tmp_path, lambda values: None)) == ["cells"]


def test_arms_share_what_is_identical_and_follow_their_own_student_from_round_2(tmp_path):
    def two_rounds(values):
        values["experiment"]["rounds"] = 2

    arms = expand(tmp_path, two_rounds)["cells"]["arms"]
    one, two = arms["omniopd"]["seed-0"], arms["shuffled-scores"]["seed-0"]
    for stage in ("rollout", "forks", "teach"):
        assert one["round-1"][stage] == two["round-1"][stage]
        assert one["round-2"][stage] != two["round-2"][stage]
    assert one["round-1"]["score"] != two["round-1"]["score"]


def test_a_second_seed_adds_cells_and_keeps_the_first_ones(tmp_path):
    one = set(plan.upstream(expand(tmp_path, lambda values: None)))
    two = set(plan.upstream(expand(tmp_path, lambda v: v["experiment"].update(seeds=[0, 1]))))
    assert one < two
    assert len(two) > len(one)


def test_arms_with_equal_answers_share_one_calibration_of_the_first_round(tmp_path):
    def several(values):
        values["experiment"].update(rounds=2, seeds=[0, 1])
        names = ["omniopd", "shuffled-scores", "zero-score", "prior-only", "sft", "multi-teacher"]
        values["experiment"]["arms"] = names

    def every(values):
        several(values)
        values["calibrate"] = {"rounds": "all"}

    cells = expand(tmp_path, several)["cells"]
    arms = cells["arms"]
    shared = arms["omniopd"]["seed-0"]["round-1"]["calibrate"]
    assert arms["shuffled-scores"]["seed-0"]["round-1"]["calibrate"] == shared
    assert arms["multi-teacher"]["seed-0"]["round-1"]["calibrate-carries"] == shared
    assert "calibrate-never-carries" in arms["multi-teacher"]["seed-0"]["round-1"]
    for arm in ("zero-score", "prior-only", "sft"):
        assert "calibrate" not in arms[arm]["seed-0"]["round-1"]
    assert "calibrate" not in arms["omniopd"]["seed-0"]["round-2"]
    assert len(cells["calibrate"]) == 2 * 2  # teachers, seeds
    more = expand(tmp_path, every)["cells"]
    assert "calibrate" in more["arms"]["omniopd"]["seed-0"]["round-2"]
    assert set(cells["calibrate"]) < set(more["calibrate"])
    assert all(cells[g] == more[g] for g in plan.GROUPS if g not in ("calibrate", "report"))


def test_replay_is_no_part_of_a_cell_and_chunk_length_is(tmp_path):
    one = expand(tmp_path, lambda values: None)
    same = expand(tmp_path, lambda v: v["teach"].update(replay=True))
    other = expand(tmp_path, lambda v: v["forks"].update(chunk_tokens=3))
    assert one["cells"]["teach"] == same["cells"]["teach"]
    assert not set(one["cells"]["teach"]) & set(other["cells"]["teach"])


def test_the_shipped_plan_is_what_the_shipped_params_mean():
    with contextlib.chdir(ROOT):
        plan_files.check()
