"""A metric, a scheduler, a task and an objective in an experiment's own folder: extensions/."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from pipeline import tasks
from pipeline.code_digest import libraries, locks, variants
from pipeline.core import extensions
from pipeline.core.errors import UserError
from pipeline.method import schedulers, similarity
from pipeline.plan import expand, experiment
from tests.project import MINIATURE

METRIC = '''"""ending: 1 where both texts end in the same character, else 0."""

from extensions.shared import last


def measure(pairs):
    return [float(last(p.text) == last(p.other)) for p in pairs]
'''
SHARED = "def last(text):\n    return text[-1:]\n\n\ndef unused():\n    return 1\n"
SCHEDULER = """from pipeline.method.schedulers import greedy


def positions(response):
    last = len(response.entropies_T) - response.chunk
    return greedy(list(range(last, -1, -1)), response)
"""
OBJECTIVE = '''"""omniopd's chunks at half their weight, with its anchor."""

from pipeline.method.objectives import Terms, omniopd
from pipeline.method.objectives.weighted import anchor, nll

ANCHOR = True


def examples(rollouts, targets):
    return omniopd.examples(rollouts, targets)


def terms(piece, correct):
    return Terms(0.5 * nll(piece, correct), anchor(piece))
'''
TASK = '''"""doubling: say twice a number."""

from typing import Literal

from pipeline.config import params
from pipeline.config.problems import TaskPrepare
from pipeline.core.seeds import generator
from pipeline.tasks import Checked, Problem


class Prepare(TaskPrepare):
    task: Literal["extensions.doubling"]
    largest: params.Count


class Doubling:
    def __init__(self, prepare):
        self.largest = prepare.largest

    def problems(self, seed):
        draw = generator(seed, "doubling")
        while True:
            number = int(draw.integers(1, self.largest + 1))
            text = f"2*{number}="
            yield Problem("doubling", [{"role": "user", "content": text}], text, str(2 * number))

    def solution(self, problem, habits, draw):
        return problem.answer

    def check(self, task, response, answer):
        return Checked(response, response == answer)

    def alphabet(self):
        return "0123456789*="


def load(prepare):
    return Doubling(prepare)
'''
FILES = {
    "ending": METRIC,
    "shared": SHARED,
    "latest": SCHEDULER,
    "half_weight": OBJECTIVE,
    "doubling": TASK,
}
ARMS = {
    "mine": {"forks": {"scheduler": "extensions.latest"}, "score": {"metric": "extensions.ending"}},
    "half": {"train": {"objective": "extensions.half-weight"}},
}
TASKED = {"task": "extensions.doubling", "largest": 9}


def write(folder, **more):
    (folder / "extensions").mkdir(exist_ok=True)
    for name, text in {**FILES, **more}.items():
        (folder / "extensions" / f"{name}.py").write_text(text)


def forgotten():
    for name in [name for name in sys.modules if name.split(".")[0] == extensions.FOLDER]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's folder with these files, which this process takes modules from."""
    monkeypatch.chdir(tmp_path)
    forgotten()
    write(tmp_path)
    yield tmp_path
    forgotten()


def values(arms=("omniopd", "mine", "half"), **blocks):
    found = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    found["arms"] |= ARMS
    found["experiment"]["arms"] = list(arms)
    for name, block in blocks.items():
        found[name] = {**(found.get(name) or {}), **block}
    return found


def planned(**blocks):
    return expand.expand(experiment.of(values(**blocks), "params.yaml"))


def texts(**blocks):
    return locks.texts(variants.of_plan(planned(**blocks)).values())


OWN = {"score-extensions-ending", "forks-extensions-latest", "train-extensions-half-weight"}


def test_a_variant_is_named_after_what_it_chooses_and_no_other_lock_changes(folder):
    found, without = texts(), texts(arms=["omniopd"])
    assert found.keys() - without.keys() == OWN
    assert without.items() <= found.items()
    calibrated = texts(calibrate={"metrics": ["edit", "extensions.ending"]})
    assert calibrated.keys() - found.keys() == {"calibrate-extensions-ending"}


def lines(text, name):
    return [line for line in text.splitlines() if line.rpartition(" ")[0] == name]


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("ending", "def measure", "# a comment\n\n\ndef measure", set()),
        ("ending", '"""ending: 1', '"""another docstring: 1', set()),
        ("shared", "return 1", "return 2", set()),  # which nobody calls
        ("ending", "==", "!=", {"score-extensions-ending"}),
        ("shared", "[-1:]", "[-2:]", {"score-extensions-ending"}),
        ("latest", "greedy(list(", "greedy(sorted(", {"forks-extensions-latest"}),
        ("half_weight", "0.5 *", "0.5 * -", {"train-extensions-half-weight"}),
        ("doubling", "2 * number", "3 * number", set()),  # which no arm uses
    ],
)
def test_what_a_file_does_is_part_of_the_lock_of_who_uses_it(folder, name, old, new, changed):
    before = texts()
    path = folder / "extensions" / f"{name}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = texts()
    assert {variant for variant in after if after[variant] != before[variant]} == changed


def test_functions_and_what_they_call_stand_in_the_lock(folder):
    score = texts()["score-extensions-ending"]
    assert lines(score, "measure")
    assert lines(score, "last")
    assert not lines(score, "unused")
    train = texts()["train-extensions-half-weight"]
    assert {len(lines(train, name)) for name in ("terms", "nll", "anchor")} == {1}
    assert len(lines(train, "examples")) == 2  # its own, and that which it calls


def test_a_library_that_only_an_extension_imports_counts_too(folder):
    before = texts()["score-extensions-ending"]
    write(folder, ending="import json\nimport yaml as y\nimport tabulate\n" + METRIC)
    after = texts()["score-extensions-ending"]
    more = [x for x in after.splitlines() if x.startswith("library") and x not in before]
    version = libraries.version("tabulate")
    assert version[0].isdigit()
    assert more == [f"library tabulate {version}", f"library yaml {libraries.version('yaml')}"]
    assert libraries.version("yaml")[0].isdigit()  # of PyYAML


def test_they_are_loaded_from_the_folder_and_compute(folder):
    pairs = [similarity.Pair(a, True, b, True) for a, b in (("12", "32"), ("12", "13"), ("", ""))]
    assert similarity.similarities(pairs, "extensions.ending") == [1.0, 0.0, 1.0]
    assert similarity.unseen(["a"], "extensions.ending") == [False]
    entropies = np.zeros(9, np.float32)
    draw = np.random.default_rng(0)
    response = schedulers.Response(entropies, 2, 3, lambda t: True, draw)
    assert schedulers.load("extensions.latest")(response) == [3, 6]
    found = values(arms=["omniopd"], prepare=TASKED)
    del found["prepare"]["digits"]
    file = experiment.of(found, "params.yaml")
    assert file.prepare.largest == 9
    task = tasks.load(file.prepare)
    problem = next(task.problems(1))
    assert problem.answer == str(2 * int(problem.prompt[2:-1]))
    assert not task.check("", "x", problem.answer).correct
    stages = locks.texts(variants.of_plan(expand.expand(file)).values())
    names = ("prepare", "evaluate", "rollout", "pretrain")
    for variant in (x for x in stages if x.startswith(names)):
        assert "extensions-doubling" in variant
        assert lines(stages[variant], "Doubling")


def test_a_folder_installed_under_the_same_name_is_not_taken(folder, tmp_path, monkeypatch):
    other = tmp_path / "site/extensions"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('another')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert extensions.load("extensions.shared", "last")("ab") == "b"
    forgotten()
    (folder / "extensions/__init__.py").write_text("HERE = 1\n")
    assert extensions.load("extensions", "HERE") == 1


def test_an_objective_s_cell_reads_what_its_examples_take(folder):
    found = planned()
    arms = found["cells"]["arms"]
    train = {arm: arms[arm]["seed-0"]["round-1"]["train"] for arm in ("omniopd", "half")}
    ours, own = (found["cells"]["train"][train[arm]] for arm in ("omniopd", "half"))
    inputs = ("policy", "rollouts", "targets", "reference")
    assert {name: own[name] for name in inputs} == {name: ours[name] for name in inputs}
    assert own["objective"] == "extensions.half_weight"
    unread = {"answers", "jsd_beta", "baseline"}
    assert not unread & own["params"].keys()
    assert {"beta", "anchor", "correction"} <= own["params"].keys()


def test_an_objective_may_read_forks_answers_and_a_teacher_and_have_no_anchor(folder):
    text = OBJECTIVE.replace("ANCHOR", "TEACHER").replace(", targets)", ", answers, forks)")
    write(folder, half_weight=text)
    found = planned()
    train = found["cells"]["arms"]["half"]["seed-0"]["round-1"]["train"]
    own = found["cells"]["train"][train]
    assert {"answers", "forks", "teacher"} <= own.keys()
    assert not {"targets", "reference"} & own.keys()
    assert not {"beta", "anchor"} & own["params"].keys()


WRONG = {
    "a metric that is not there": (
        {"score": {"metric": "extensions.nosuch"}},
        {},
        r"params\.yaml: score\.metric: found extensions\.nosuch, and there is no extensions/nosuch",
    ),
    "a metric with another's function": (
        {"score": {"metric": "extensions.latest"}},
        {},
        r"extensions/latest\.py: found no measure, wanted it of a metric, which score\.metric",
    ),
    "a metric among those calibrated": (
        {"calibrate": {"metrics": ["extensions.nosuch"]}},
        {},
        r"calibrate\.metrics: found extensions\.nosuch",
    ),
    "a file that is no Python": (
        {},
        {"latest": "def positions(:\n"},
        r"extensions/latest\.py: found invalid syntax.*wanted Python",
    ),
    "a path": ({"score": {"metric": "extensions.../x"}}, {}, r"score\.metric: found"),
    "an objective of other arguments": (
        {},
        {"half_weight": OBJECTIVE.replace("(rollouts, targets):", "(rollouts, weights):")},
        r"examples takes \['rollouts', 'weights'\], wanted rollouts and then any of targets",
    ),
    "an objective without terms": (
        {},
        {"half_weight": OBJECTIVE.replace("def terms", "def other")},
        r"found no terms, wanted it of an objective, which arms.half: train.objective",
    ),
    "a task without its block": (
        {"prepare": TASKED},
        {"doubling": TASK.replace("class Prepare", "class Other")},
        r"extensions/doubling\.py: cannot take Prepare",
    ),
    "a task of a wrong key": (
        {"prepare": {"task": "extensions.doubling", "biggest": 9}},
        {},
        r"prepare\.largest: missing",
    ),
    "teacher's tokens matched": (
        {"experiment": {"match": "teacher_output_tokens", "arms": ["omniopd", "half"]}},
        {},
        r"experiment\.match: found 'teacher_output_tokens', wanted student_tokens or optimizer",
    ),
    "rounds in one cell": (
        {"experiment": {"steps_per_cell": 2, "arms": ["half"]}},
        {},
        r"experiment\.steps_per_cell: found 2, wanted 1 with train\.objective extensions\.half",
    ),
    "an objective that is none": (
        {"train": {"objective": "nosuch"}},
        {},
        r"train\.objective: found 'nosuch', wanted one of omniopd, .*, or extensions\.NAME",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_before_anything_runs(folder, name):
    blocks, files, said = WRONG[name]
    write(folder, **files)
    found = values()
    for block, changes in blocks.items():
        found[block] = {**(found.get(block) or {}), **changes}
        if "task" in changes:
            found[block].pop("digits", None)
    with pytest.raises(UserError, match=said):
        experiment.of(found, "params.yaml")


def test_a_module_that_cannot_be_imported_is_named(folder):
    write(folder, ending="import nosuchlibrary\n" + METRIC)
    with pytest.raises(UserError, match=r"extensions/ending\.py: cannot take measure from it \(No"):
        similarity.load("extensions.ending")


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_an_arm_of_ones_own_files_runs_and_an_edit_reruns_what_uses_it(small, tmp_path):
    project = small.copy(tmp_path / "project")
    write(project.folder)
    project.edit(
        experiment__arms=["omniopd", "sft", "shuffled-scores", "mine", "half"],
        arms__mine=ARMS["mine"],
        arms__half=ARMS["half"],
    )
    names = project.repro()
    stages = [name.partition("@")[0] for name in names]
    assert sorted(x for x in stages if x not in ("plan", "report")) == sorted(
        [*("forks", "teach", "score", "calibrate", "prior"), *("train", "evaluate") * 2]
    )
    rows = json.loads((project.folder / "data/report/results.json").read_text())
    assert {"mine", "half"} <= {row["arm"] for row in rows}
    forks = pd.read_parquet(project.cell("mine", 1, "forks") / "forks.parquet")
    answers = pd.read_parquet(project.cell("mine", 1, "teach") / "answers.parquet")
    scores = pd.read_parquet(project.cell("mine", 1, "score") / "scores.parquet")
    merged = forks.merge(answers, on=["rollout_id", "position"])
    expected = [float(a[-1:] == b[-1:]) for a, b in zip(merged.chunk_text, merged.text)]  # noqa: B905
    assert list(scores.similarity) == expected
    assert 0 < sum(expected) < len(expected)
    weights = [
        project.cell(arm, 1, "train") / "checkpoint/model.safetensors"
        for arm in ("omniopd", "half")
    ]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    for arm, stage in (("mine", "forks"), ("mine", "score"), ("half", "train")):
        key = project.cell(arm, 1, stage).name
        (name,) = [x for x in names if x.endswith(f"@{key}")]
        assert project.loaded(name) <= project.reached(name)

    write(project.folder, ending="# a comment\n" + METRIC)
    assert [x.partition("@")[0] for x in project.repro()] == ["plan"]  # which has the file as dep
    write(project.folder, ending=METRIC.replace("==", "!="))
    again = {x.partition("@")[0] for x in project.repro()}
    assert again == {"plan", "score", "prior", "train", "evaluate", "report"}
    why = project.run("omniopd", "why", "mine").stdout
    assert "nothing changed since it ran" in why
    write(project.folder)
    stale = project.run(
        "omniopd", "stage", "score", "--cell", project.cell("mine", 1, "score").name, check=False
    )
    assert stale.returncode == 2
    assert "measure changed since" in stale.stderr
    assert "Run `omniopd plan`" in stale.stderr
