"""A task is a file and a line; cells whose problems are rows depend on what they load."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipeline.config.models import LlamaInit
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from tests.project import MINIATURE, Project, ran
from tests.tasks.test_code import PROMPT, TEST, needs_sandbox

pytestmark = pytest.mark.usefixtures("warm")
DOUBLING = '''"""Twice a number."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from pipeline.config import params
from pipeline.config.models import Habits
from pipeline.config.problems import TaskPrepare
from pipeline.core import seeds
from pipeline.tasks import Checked, Problem


class Prepare(TaskPrepare):
    task: Literal["doubling"]
    largest: params.Count


def load(prepare: Prepare) -> "Doubling":
    return Doubling(prepare.largest)


class Doubling:
    def __init__(self, largest: int) -> None:
        self.largest = largest

    def alphabet(self) -> str:
        return "0123456789*=?"

    def problems(self, seed: int) -> Iterator[Problem]:
        draw = seeds.generator("doubling", seed)
        while True:
            n = int(draw.integers(self.largest))
            prompt = f"2*{n}?"
            messages = [{"role": "user", "content": prompt}]
            yield Problem("doubling", messages, prompt, str(2 * n))

    def solution(self, problem: Problem, habits: Habits, draw: np.random.Generator) -> str:
        return problem.answer

    def check(self, task: str, response: str, answer: str) -> Checked:
        return Checked(response, response == answer)
'''


def edited(folder, prepare, **blocks):
    """The miniature's params with another task, in `folder`."""
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["prepare"] = prepare
    values["experiment"]["arms"] = ["omniopd"]
    for name, block in blocks.items():
        values[name] = {**values[name], **block}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    return folder / "params.yaml"


def cells(project, group):
    """Of the plan that dag/ has: what params.yaml means now may be another one."""
    files = project.folder.glob(f"dag/cells/{group.partition('-')[0]}/*.yaml")
    own = [path for path in files if path.read_text().startswith(f"group: {group}\n")]
    return [f"{group}@{path.stem}" for path in sorted(own)]


def addresses(project, group):
    return [project.address(name) for name in cells(project, group)]


def table(project, stage, name):
    (path,) = (project.folder / "data" / stage).glob(f"*/{name}.parquet")
    return pq.read_table(path).to_pylist()


def test_a_task_is_one_file_and_one_line(tmp_path):
    project = Project(tmp_path / "project")
    (project.folder / "pipeline/tasks/doubling.py").write_text(DOUBLING)
    path = project.folder / "pipeline/config/problems.py"
    text = path.read_text()
    path.write_text(text.replace('TaskName = Literal["', 'TaskName = Literal["doubling", "'))
    assert path.read_text() != text
    counts = {"seed": 1, "train": 16, "dev": 2, "test": 24}
    edited(project.folder, {"task": "doubling", "largest": 100, **counts})
    project.run("omniopd", "plan")
    (name,) = cells(project, "prepare")
    project.run("dvc", "repro", project.address(name))
    rows = table(project, "prepare", "prompts")
    assert len(rows) == 42
    assert all(int(row["answer"]) == 2 * int(row["prompt"][2:-1]) for row in rows)
    assert project.loaded(name) <= project.reached(name)
    grade = (
        "from pipeline.config import params, problems; from pipeline import tasks\n"
        f"p = {dict(task='doubling', largest=9, **counts)!r}\n"
        "class M(params.Params): prepare: problems.Prepare\n"
        "task = tasks.load(M(prepare=p).prepare)\n"
        "print(task.check('doubling', '14', '14').correct, task.check('', '15', '14').correct)"
    )
    assert project.run("python", "-c", grade).stdout == "True False\n"
    edited(project.folder, {"task": "doubling", "biggest": 100, **counts})
    done = project.run("omniopd", "plan", check=False)
    assert "prepare.largest: missing" in done.stderr
    assert "prepare.biggest: unknown key" in done.stderr


def student(folder):
    """A checkpoint with random weights that can read and write any ASCII text."""
    import torch

    from pipeline.engines import char_tokenizer
    from pipeline.engines.hf import save

    torch.manual_seed(0)
    init = LlamaInit(kind="llama", hidden=16, layers=1, heads=2, mlp=16)
    tokens = char_tokenizer.tokenizer("".join(map(chr, range(32, 127))) + "\n")
    save(char_tokenizer.llama(init, tokens, 512), tokens, folder, torch.float32)
    return {"init": {"kind": "hub", "name": str(folder)}, "steps": 0, "batch_size": 1, "lr": 1e-3}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return student(tmp_path_factory.mktemp("student") / "checkpoint")


def ready(folder, prepare, model):
    """A project on `prepare` whose models are all `model`; nothing has run."""
    project = Project(folder)
    edited(
        project.folder,
        {"seed": 1, "train": 8, "dev": 1, "test": 2, "folder": "problems", **prepare},
        pretrain={"per_seed": False, "models": {"sloppy": model, "careful": model}},
        evaluate={"problems": 2, "samples": 1, "max_new_tokens": 8},
        arms={"omniopd": {}},
        teachers={"carries": {"kind": "local", "model": "careful"}},
    )
    (project.folder / "problems").mkdir()
    return project


MATH = {
    "task": "math",
    "sets": {
        "own": {"file": "own.jsonl", "format": "math-500", "splits": ["train", "dev", "test"]}
    },
    "instruction": "Box it.",
}
CODE = {
    "task": "code",
    "sets": {"own": {"file": "own.jsonl", "splits": ["train", "dev", "test"]}},
    "instruction": "Complete it.",
    "timeout_seconds": 20.0,
}


def write(project, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (project.folder / "problems/own.jsonl").write_text(text)


def sums(count):
    return [{"problem": f"{n}+{n}?", "answer": str(2 * n)} for n in range(count)]


def test_mathematics_from_a_file_runs_and_reruns_when_the_file_changes(tmp_path, imported):
    project = ready(tmp_path / "project", MATH, imported)
    write(project, sums(11))
    project.run("omniopd", "plan")
    names = cells(project, "rollout")
    places = addresses(project, "rollout")
    project.run("dvc", "repro", *places)
    rewards = [row["reward"] for row in table(project, "rollout", "rollouts")]
    assert rewards == [0.0] * 32  # random weights box nothing
    for name in (*cells(project, "prepare-rows"), *names):
        assert project.loaded(name) <= project.reached(name)
    assert project.run("dvc", "repro", *places).stdout.count("Running stage") == 0
    before = addresses(project, "prepare-rows")
    write(project, sums(12))
    done = project.run("dvc", "repro", *before, check=False)  # without a new plan
    assert "its content has the hash" in done.stderr
    assert "run `omniopd plan`" in done.stderr
    project.run("omniopd", "plan")
    after = addresses(project, "prepare-rows")
    assert after != before
    names = ran(project.run("dvc", "repro", *after).stdout)
    assert [name for name in names if name != "plan"] == cells(project, "prepare-rows")
    write(project, sums(11))
    project.run("omniopd", "plan")
    assert addresses(project, "prepare-rows") == before
    assert "Running stage" not in project.run("dvc", "repro", *before).stdout


@pytest.mark.slow
@needs_sandbox
def test_code_from_a_file_is_graded_in_the_sandbox_by_cells_that_depend_on_it(tmp_path, imported):
    project = ready(tmp_path / "project", CODE, imported)
    prompts = [PROMPT.replace("Twice", f"{n} Twice") for n in range(11)]
    write(project, [{"prompt": p, "test": TEST, "entry_point": "double"} for p in prompts])
    project.run("omniopd", "plan")
    assert not cells(project, "rollout") + cells(project, "evaluate")
    names = [*cells(project, "rollout-sandbox"), *cells(project, "evaluate-sandbox")[:1]]
    project.run("dvc", "repro", *map(project.address, names))
    (path,) = (project.folder / "data/rollout").glob("*/run.json")
    reasons = {k: v for k, v in json.loads(path.read_text()).items() if k.startswith("graded_")}
    assert sum(reasons.values()) == 32  # random text is no program
    assert {row["reward"] for row in table(project, "rollout", "rollouts")} == {0.0}
    assert not any(row["correct"] for row in table(project, "evaluate", "evals"))
    for name in names:
        assert project.loaded(name) <= project.reached(name)
        assert "pipeline/sandbox/__init__.py" in project.reached(name)


def test_prompts_without_a_checker_have_no_reward_and_are_not_evaluated(tmp_path, imported):
    from stages.rollout import RolloutParams, rollout

    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"Why {n}?"}) + "\n" for n in range(8)))
    prepare = {"task": "prompts", "seed": 0, "file": str(asked), "train": 8}
    loaded = experiment.load(edited(tmp_path, prepare))
    cells = expand.expand(loaded)["cells"]
    assert not any(name.startswith("evaluate") and cells[name] for name in cells)
    for objective in ("grpo", "rft"):
        with pytest.raises(UserError, match=rf"train\.objective: found '{objective}', wanted one"):
            experiment.load(edited(tmp_path, prepare, train={"objective": objective}))
    values = loaded.rollout.model_dump() | {"prepare": prepare, "seed": 0, "round": 1}
    p = RolloutParams.model_validate_json(json.dumps(values | {"max_new_tokens": 4}))
    found = pa.concat_tables(rollout(policy(imported), questions(p), p, 4096, {}))
    assert found["reward"].null_count == len(found) == 32


def policy(imported):
    from pathlib import Path

    from pipeline.engines.hf import load

    return load(Path(imported["init"]["name"]))


def questions(p):
    from pipeline.data import prompts
    from stages.prepare import prepare

    return [
        prompts.Prompt(
            row["prompt_id"], row["task"], json.loads(row["messages"]), row["prompt"], ""
        )
        for row in prepare(p.prepare)
    ]
