"""Several on-policy steps in one cell are as many cells of one: tables, weights and report."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.estimate import compute, estimate
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.judgments.store import Store
from pipeline.plan import blocks, experiment
from pipeline.plan import expand as plan
from pipeline.runner import cell_graph
from pipeline.stage import multi_step
from tests.project import MACHINERY, MINIATURE, ROOT, Project

TINY = {"kind": "llama", "hidden": 16, "layers": 1, "heads": 2, "mlp": 32}
LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "down_proj"]}
ARMS = [
    *("omniopd", "shuffled-scores", "zero-score", "prior-only", "chunk-logprob"),
    *("random-scores", "sft", "imitate-forks", "opd", "opd-forks", "grpo"),
]
KINDS = {  # of an arm's group of cells
    "steps": {"omniopd", "shuffled-scores"},
    "steps-zero": {"zero-score"},
    "steps-prior": {"prior-only", "chunk-logprob"},
    "steps-control": {"random-scores"},
    "steps-solutions": {"sft"},
    "steps-forks": {"imitate-forks"},
    "steps-opd-forks": {"opd-forks"},
    "steps-rollouts": {"opd", "grpo"},
}


def scratch(folder, arms, rounds, size, **more):
    """A project of tiny untaught models: equality needs no good ones."""
    project = Project(folder)
    models = {"careful": TINY, "sloppy": TINY}
    project.edit(
        experiment__arms=arms,
        experiment__rounds=rounds,
        experiment__steps_per_cell=size,
        calibrate={"metrics": ["edit"]},
        prepare__train=64,
        rollout__prompts_per_round=4,
        rollout__samples_per_prompt=2,
        train__batch_size=4,
        **{f"pretrain__models__{name}__init": init for name, init in models.items()},
        **{f"pretrain__models__{name}__steps": 20 for name in models},
        **more,
    )
    project.run("omniopd", "plan")
    shutil.copytree(ROOT / "tests", project.folder / "tests")
    return project


def cellwise(project, *left_out):
    project.run(sys.executable, "-m", "tests.cellwise", *left_out)
    return project


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return cellwise(scratch(tmp_path_factory.mktemp("steps") / "one", ARMS, 4, 1))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return cellwise(scratch(tmp_path_factory.mktemp("steps") / "four", ARMS, 4, 4))


@functools.cache
def rounds(folder, arm):
    return Project.at(folder).plan()["cells"]["arms"][arm]["seed-0"]


def cell(project, arm, round_, stage):
    return project.folder / "data" / stage / rounds(project.folder, arm)[f"round-{round_}"][stage]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same(one, several, arm, ends):
    """Each of the arm's cells, by the round that it ends with, is its rounds one by one."""
    first = 1
    for last in ends:
        for stage, (name, schema) in multi_step.TABLES.items():
            if stage not in rounds(several.folder, arm)[f"round-{last}"]:
                continue
            path = cell(several, arm, last, stage) / f"{name}.parquet"
            apart = [
                tables.read(cell(one, arm, r, stage) / f"{name}.parquet", schema)
                for r in range(first, last + 1)
            ]
            assert tables.read(path, schema).equals(pa.concat_tables(apart))
            whole = pq.read_table(path)
            assert whole.column_names == [*schema.names, "step"]
            counted = [step for step, part in enumerate(apart, 1) for _ in range(len(part))]
            assert whole["step"].to_pylist() == counted
            assert len(counted) > len(apart)
        found, wanted = cell(several, arm, last, "train"), cell(one, arm, last, "train")
        assert bytes_of(found / "checkpoint") == bytes_of(wanted / "checkpoint")
        moments = "optimizer.safetensors"
        assert (found / moments).read_bytes() == (wanted / moments).read_bytes()
        lines = [cell(one, arm, r, "train") / "metrics.jsonl" for r in range(first, last + 1)]
        assert (found / "metrics.jsonl").read_text() == "".join(x.read_text() for x in lines)
        first = last + 1


@pytest.mark.parametrize("arm", ARMS)
def test_four_steps_in_one_cell_equal_four_in_four(one, four, arm):
    same(one, four, arm, [4])


def test_the_report_says_the_same_of_four_in_one(one, four):
    def rows(project, name):
        found = json.loads((project.folder / "data/report" / name).read_text())
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in found]

    def used(rows):  # what was bought depends on who asked the store first
        left = ("bought", "usd_spent", "shared_with")
        return [{k: v for k, v in row.items() if not any(x in k for x in left)} for row in rows]

    assert used(rows(four, "results.json")) == used(rows(one, "results.json"))
    assert rows(four, "losses.json") == rows(one, "losses.json")
    sums = [
        [{k: v for k, v in row.items() if k in ("arm", "round") or k.startswith("total_")}
         for row in used(rows(project, "costs.json")) if row["round"] == 4]
        for project in (one, four)
    ]  # fmt: skip
    assert sums[0] == sums[1]
    page = (four.folder / "data/report/index.html").read_text()
    for stage in ("forks", "teach", "score", "prior"):
        assert f"{cell(four, 'omniopd', 4, stage).name}.{stage}" in page


@pytest.mark.slow
def test_steps_that_several_processes_train_are_those_of_one_to_rounding(one, tmp_path):
    two = scratch(tmp_path / "two", ["omniopd"], 2, 2, train__processes=2)
    cellwise(two, "evaluate", "calibrate", "report")
    apart = [cell(one, "omniopd", r, "train") / "metrics.jsonl" for r in (1, 2)]
    wanted = [json.loads(line) for path in apart for line in path.read_text().splitlines()]
    found = (cell(two, "omniopd", 2, "train") / "metrics.jsonl").read_text().splitlines()
    assert len(found) == len(wanted) > 2
    for line, plain in zip(found, wanted, strict=True):
        row = json.loads(line)
        unmeasured = {name for name, value in plain.items() if value is None}  # norms of terms
        assert {name for name, value in row.items() if value is None} == unmeasured
        row, plain = ({k: v for k, v in x.items() if k not in unmeasured} for x in (row, plain))
        assert row == pytest.approx(plain, rel=1e-3, abs=1e-3)


def test_a_last_cell_may_hold_fewer_steps(one, tmp_path):
    arms = ["omniopd", "random-scores"]
    three = scratch(tmp_path / "three", arms, 4, 3, evaluate__rounds="all")
    cellwise(three, "evaluate", "calibrate", "report")
    for arm in arms:
        same(one, three, arm, [3, 4])
    found = three.plan()["cells"]["arms"]["omniopd"]["seed-0"]
    assert list(found) == ["round-3", "round-4"]
    assert all("evaluate" in cells for cells in found.values())


@pytest.mark.slow
def test_eight_steps_in_one_cell_equal_eight_in_eight_with_an_adapter(tmp_path):
    settings = {
        "train__lora": LORA,
        "train__optimizer": "reset",
        "train__importance_ratio": "ratio",
        "forks__scheduler": "embedding-variance",
        "forks__max_forks": 1,
    }
    projects = (scratch(tmp_path / str(n), ["omniopd"], 8, n, **settings) for n in (1, 8))
    apart, whole = (cellwise(one, "evaluate", "calibrate", "report") for one in projects)
    same(apart, whole, "omniopd", [8])


def test_a_cell_of_steps_loads_what_its_lock_says(four):
    loaded = json.loads((four.folder / "loaded.json").read_text())
    groups, seen = four.plan()["cells"], set()
    for name, files in loaded.items():
        group, _, key = name.partition("@")
        if not group.startswith("steps"):
            continue
        seen.add(group)
        own = {f for f in files if f.startswith(("pipeline/", "stages/"))}
        own = {f for f in own if not f.startswith(MACHINERY)}
        own |= {f"stages/{stage}.py" for stage in groups[group][key]["params"]["stages"]}
        assert own <= four.reached(name), name
    assert seen == set(KINDS)
    for group, arms in KINDS.items():
        keys = {cell(four, arm, 4, "train").name for arm in arms}
        assert keys == set(groups[group])


def test_dvc_runs_a_cell_of_steps_once_and_knows_its_places(tmp_path):
    project = scratch(tmp_path / "project", ["sft"], 2, 2)
    names = project.repro()
    assert [n.partition("@")[0] for n in names].count("steps-solutions") == 1
    assert project.repro() == []
    folder = project.cell("sft", 2, "train")
    shutil.rmtree(folder)
    assert project.repro() == []  # from the cache
    link = project.folder / "data/arms/sft/seed-0/round-2/teach/answers.parquet"
    assert link.is_file()
    shown = project.run("omniopd", "show", folder.name).stdout
    assert f"data/teach/{folder.name} data/train/{folder.name}" in shown
    project.edit(experiment__arms=["grpo"])
    project.run("omniopd", "plan")
    assert not folder.exists()
    assert not link.exists()


def started(project, key, **extra):
    command = ["omniopd", "stage", "steps", "--cell", key, "--out", f"data/steps/{key}"]
    with (project.folder / "log").open("w") as log:
        env = project.environment(**extra)
        return subprocess.Popen(command, cwd=project.folder, env=env, stderr=log)


def outs(project, key):
    """Every file of a cell; of run.json what was counted."""
    found = {}
    for path in sorted((project.folder / "data").glob(f"*/{key}/**/*")):
        if path.name == "run.json":
            run = json.loads(path.read_text())
            found[path] = {k: v for k, v in run.items() if "seconds" not in k}
        elif path.is_file():
            found[path] = path.read_bytes()
    return {str(path.relative_to(project.folder)): value for path, value in found.items()}


@pytest.mark.slow
def test_a_killed_cell_goes_on_after_its_last_step_and_asks_nothing_twice(four, tmp_path):
    project = four.copy(tmp_path / "project")
    key = project.cell("omniopd", 4, "train").name
    store = {name: f"sqlite:///{tmp_path / name}.sqlite" for name in ("undisturbed", "killed")}
    assert started(project, key, JUDGMENTS_URL=store["undisturbed"]).wait() == 0
    wanted = outs(project, key)
    assert wanted[f"data/teach/{key}/run.json"]["bought"] > 0
    project.edit(runtime__keep_seconds=1e-6)
    for path in (project.folder / "data").glob(f"*/{key}"):
        shutil.rmtree(path)
    process = started(project, key, JUDGMENTS_URL=store["killed"])
    inside = project.folder / ".resume" / f"inside-{key}"
    while not (inside / "3" / "forks" / "run.json").is_file():
        assert process.poll() is None, (project.folder / "log").read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (project.folder / "data/train" / key).exists()
    assert not (inside / "4").exists()
    begun = {path: path.stat().st_mtime_ns for path in inside.glob("[12]/*/run.json")}
    assert len(begun) == 2 * 6
    process = started(project, key, JUDGMENTS_URL=store["killed"])
    while not (inside / "4").exists():
        assert process.poll() is None, (project.folder / "log").read_text()
        time.sleep(0.005)
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    assert process.wait() == 0
    assert "goes on after 1" in (project.folder / "log").read_text()
    assert outs(project, key) == wanted
    assert not (project.folder / ".resume").exists()


@pytest.mark.slow
def test_what_was_kept_of_other_code_is_not_gone_on_from(four, tmp_path):
    project = four.copy(tmp_path / "project")
    key = project.cell("grpo", 4, "train").name
    project.edit(runtime__keep_seconds=1e-6)
    wanted = outs(project, key)
    process = started(project, key)
    inside = project.folder / ".resume" / f"inside-{key}"
    while not (inside / "2" / "train" / "run.json").is_file():
        assert process.poll() is None, (project.folder / "log").read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code = project.folder / "pipeline/method/objectives/grpo.py"
    before = code.read_text()
    code.write_text(before.replace("EPSILON = 1e-4\n", "EPSILON = 1e-4 + 0\n"))
    assert code.read_text() != before
    project.run("omniopd", "plan")
    assert started(project, key).wait() == 0
    said = (project.folder / "log").read_text()
    assert "of other params, inputs or code" in said
    assert f"rollout {key}/1:" in said
    assert outs(project, key) == wanted


def test_a_policy_that_nobody_trains_is_loaded_once_where_stages_share_a_process(monkeypatch):
    from pipeline.config import params_file
    from pipeline.engines import hf

    loaded = []
    monkeypatch.setattr(hf, "load", lambda folder, device: loaded.append(folder) or object())
    hf._kept.cache_clear()
    assert hf.frozen("teacher", "cpu") is not hf.frozen("teacher", "cpu")
    monkeypatch.setattr(params_file, "keep_frozen", True)
    assert hf.frozen("teacher", "cpu") is hf.frozen("teacher", "cpu")
    assert hf.frozen("reference", "cpu") is not hf.frozen("teacher", "cpu")
    hf._kept.cache_clear()
    assert loaded == ["teacher", "teacher", "teacher", "reference"]


@pytest.mark.gpu
def test_what_torch_keeps_on_a_gpu_after_a_stage_is_given_back():
    import torch

    from stages.steps import _give_back

    torch.empty(1 << 26, device="cuda")
    assert torch.cuda.memory_reserved() > 0
    _give_back()
    assert torch.cuda.memory_reserved() == 0


def loaded(**changes):
    values = experiment.read_yaml(MINIATURE)
    for name, value in changes.items():
        block, _, key = name.partition("__")
        values[block][key] = value
    return blocks.Experiment.model_validate_json(json.dumps(values))


def expand(**changes):
    return plan.expand(loaded(**changes))


def test_one_step_a_cell_is_the_plan_without_the_setting():
    assert expand(experiment__rounds=3, experiment__steps_per_cell=1) == expand(
        experiment__rounds=3
    )
    assert expand(experiment__rounds=1, experiment__steps_per_cell=8) == expand()


def test_more_steps_than_rounds_are_all_of_them():
    several = expand(experiment__rounds=3, experiment__steps_per_cell=9)
    assert several == expand(experiment__rounds=3, experiment__steps_per_cell=3)
    (own, other) = several["cells"]["steps"].values()
    assert own["params"]["rounds"] == other["params"]["rounds"] == [1, 3]


def test_the_estimate_of_steps_is_that_of_their_rounds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def file(size):
        return loaded(experiment__rounds=4, experiment__steps_per_cell=size)

    def steps_plan(size):
        return plan.expand(file(size))["cells"]

    several, single = (
        compute.Experimental(file(size), {"cells": steps_plan(size)}) for size in (3, 1)
    )
    for cells in zip(several.cells(), single.cells(), strict=True):
        assert cells[0].label == cells[1].label
        assert cells[0].cost == cells[1].cost
    kept = [sum("trained weights" in cell.cache for cell in x.cells()) for x in (several, single)]
    assert kept == [2 * 2, 4 * 2]  # cells, or rounds, of two arms
    with Store("sqlite:///store.sqlite", "project") as store:
        asked = [
            estimate.total(estimate.estimate(x.experiment, {"cells": found}, store)).answers
            for x, found in ((several, steps_plan(3)), (single, steps_plan(1)))
        ]
    assert asked[0] * 7 == asked[1] * 8 > 0  # the arms share the cell of round 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experiment__match": "student_tokens"}, "experiment.match"),
        ({"experiment__branch": ["shuffled-scores"]}, "experiment.branch"),
        ({"experiment__arms": ["multi-teacher"]}, "several teachers"),
    ],
)
def test_what_needs_single_rounds_is_refused_when_it_is_planned(changes, named):
    with pytest.raises(UserError, match="steps_per_cell") as refused:
        expand(experiment__rounds=2, experiment__steps_per_cell=2, **changes)
    assert named in str(refused.value)


def test_the_flow_names_the_rounds_and_tries_a_cell_that_teaches_again():
    found = expand(
        experiment__rounds=4, experiment__steps_per_cell=3, experiment__arms=["omniopd", "grpo"]
    )
    graph = cell_graph.graph(found, gpu=True)
    labels = {c.label.partition(" (")[0]: c for n, c in graph.items() if n.startswith("steps")}
    assert set(labels) == {
        f"steps {arm} rounds {span} seed 0"
        for arm in ("omniopd", "grpo")
        for span in ("1-3", "4-4")
    }
    assert all(cell.gpu for cell in labels.values())
    assert labels["steps omniopd rounds 1-3 seed 0"].retries == 2
    assert labels["steps grpo rounds 1-3 seed 0"].retries == 1
    later = labels["steps omniopd rounds 4-4 seed 0"]
    assert labels["steps omniopd rounds 1-3 seed 0"].name in later.reads


def test_run_json_of_steps_adds_counts_and_weighs_shares():
    first = {"stage": "train", "rows_in": 2, "rows_out": 1, "seconds": 0.5, "start_seconds": 1.0,
             "steps_per_round": 2, "clipped_share": 1.0, "engine_gap_max": 0.25,
             "engine_checked_rows": 4, "engine_forks_max": 3}  # fmt: skip
    then = first | {
        "rows_out": 3,
        "clipped_share": 0.0,
        "steps_per_round": 1,
        "engine_gap_max": 0.5,
    }
    assert multi_step.merged([first, then]) == {
        "stage": "train", "rows_in": 4, "rows_out": 4, "seconds": 1.0, "start_seconds": 0.0,
        "steps_per_round": 1, "optimizer_steps": 3, "clipped_share": 0.25, "engine_gap_max": 0.5,
        "engine_checked_rows": 8, "engine_forks_max": 3,
    }  # fmt: skip
    asked = {"rows_out": 4, "answers": 4, "failed": 1, "continuation_failure_rate": 0.2, "usd": 0.5}
    none = {"rows_out": 0, "answers": 0, "failed": 0, "continuation_failure_rate": 0.0, "usd": 0.0}
    found = multi_step.merged([asked, none, asked])
    assert found["continuation_failure_rate"] == 0.2
    assert found["usd"] == 1.0


def test_a_table_of_steps_is_read_without_its_step_and_split_by_it(tmp_path):
    rows = {
        "rollout_id": ["a"],
        "position": [1],
        "sample": [0],
        "teacher": ["t"],
        "metric": ["edit"],
    }
    for step, value in enumerate((0.25, 0.75), 1):
        table = pa.table({**rows, "similarity": [value]}, schema=schemas.SCORES)
        tables.write(table, tmp_path / f"{step}.parquet", schemas.SCORES)
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    tables.merge(paths, tmp_path / "all.parquet", schemas.SCORES)
    found = tables.read(tmp_path / "all.parquet", schemas.SCORES)
    assert found.schema.equals(schemas.SCORES)
    assert found["similarity"].to_pylist() == [0.25, 0.75]
    own = tables.read(tmp_path / "all.parquet", schemas.SCORES, ["step", "similarity"])
    assert own.to_pylist() == [{"step": 1, "similarity": 0.25}, {"step": 2, "similarity": 0.75}]
    tables.split(tmp_path / "all.parquet", 2, tmp_path / "two.parquet", schemas.SCORES)
    assert pq.read_table(tmp_path / "two.parquet").equals(pq.read_table(paths[1]))
