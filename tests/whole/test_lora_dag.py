"""Two rounds of an adapter through the DAG, with every objective's stages that read a policy."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from pipeline.engines import checkpoints
from pipeline.plan import blocks, expand, experiment
from tests.project import MINIATURE, Project

pytestmark = pytest.mark.usefixtures("warm")

LORA = {"rank": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("lora") / "project")
    found.edit(
        experiment__arms=["omniopd"],
        experiment__rounds=2,
        train__lora=LORA,
        forks__scheduler="embedding-variance",
        runtime__gradient_checkpointing=True,
        calibrate={"rounds": "none"},
        pretrain__models__careful__steps=100,
        pretrain__models__sloppy__steps=100,
    )
    found.flow()
    return found


def checkpoint(project, round_):
    return project.cell("omniopd", round_, "train") / "checkpoint"


@pytest.mark.slow
def test_train_cells_keep_adapters_on_the_pretrained_student(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    base = project.cell("base", 0, "policy").relative_to(project.folder) / "checkpoint"
    for round_ in (1, 2):
        folder = checkpoint(project, round_)
        assert checkpoints.is_adapter(folder)
        assert not (folder / "model.safetensors").exists()
        assert checkpoints.verified_base(folder) == base
        values = json.loads((folder / "adapter_config.json").read_text())
        assert (values["r"], values["lora_alpha"]) == (4, 8.0)
        moments = load_file(folder.parent / "optimizer.safetensors")
        assert all("lora_" in name for name in moments if name != "step")
    one, two = (load_file(checkpoint(project, r) / "adapter_model.safetensors") for r in (1, 2))
    assert one.keys() == two.keys()
    assert any(not one[name].equal(two[name]) for name in one)


@pytest.mark.slow
def test_every_stage_reads_an_adapter_and_loads_what_its_lock_says(project):
    stages = project.locked()
    rounds = project.plan()["cells"]["arms"]["omniopd"]["seed-0"]["round-2"]
    for stage in ("rollout", "forks", "train", "evaluate"):
        (name,) = (n for n in stages if n.endswith(f"@{rounds[stage]}"))
        assert project.loaded(name) <= project.reached(name)


@pytest.mark.slow
def test_the_anchor_pulls_in_round_2_and_a_round_of_it_is_saved_bit_by_bit_again(project, tmp_path):
    lines = (checkpoint(project, 2).parent / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["train/anchor"] > 1e-6  # round 1 moved away from the reference
    copy = project.copy(tmp_path / "project")
    folder = copy.cell("omniopd", 2, "train")
    before = {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()}
    command = copy.locked()[f"train@{folder.name}"]["cmd"]
    shutil.rmtree(folder)
    copy.run("sh", "-c", command)
    assert {path.name: path.read_bytes() for path in (folder / "checkpoint").iterdir()} == before


@pytest.mark.slow
def test_a_base_that_is_gone_is_named_with_its_remedy_and_repro_restores_it(project, tmp_path):
    copy = project.copy(tmp_path / "project")
    base = copy.cell("base", 0, "policy")
    command = next(
        stage["cmd"]
        for name, stage in copy.locked().items()
        if name.endswith(f"@{copy.cell('omniopd', 2, 'rollout').name}")
    )
    shutil.rmtree(base)
    done = copy.run("sh", "-c", command, check=False)
    assert done.returncode == 2
    remedy = f"dvc checkout {base.relative_to(copy.folder)}/checkpoint"
    assert remedy in done.stderr
    copy.run(*remedy.split())
    copy.run("sh", "-c", command)
    shutil.rmtree(base)
    assert copy.repro() == []
    assert base.is_dir()


def test_an_adapter_is_part_of_train_cells_and_of_no_other_setting():
    values = experiment.read_yaml(MINIATURE)
    off = expand.expand(blocks.Experiment.model_validate_json(json.dumps(values)))
    values["train"] |= {"lora": None, "moment_bits": None}
    values["runtime"] |= {"gradient_checkpointing": True}
    same = expand.expand(blocks.Experiment.model_validate_json(json.dumps(values)))
    assert off == same
    values["train"]["lora"] = LORA
    on = expand.expand(blocks.Experiment.model_validate_json(json.dumps(values)))
    trained = [g for g in expand.GROUPS if g.startswith("train") and on["cells"][g]]
    assert trained
    for group in trained:
        assert all(cell["params"]["lora"] == LORA for cell in on["cells"][group].values())
    assert on["cells"]["pretrain"] == off["cells"]["pretrain"]
