"""What CONTRIBUTING says: a metric, a scheduler, an objective are one file plus one line."""

import json
import sys
from collections import Counter

import pandas as pd
import pytest

from tests.project import Project
from tests.runner.test_dag import AGAIN, groups, ledger

pytestmark = pytest.mark.usefixtures("warm")
# file, its text, where its name is listed, the list's beginning before and after
ADDED = {
    "metric": (
        "pipeline/method/similarity/ending.py",
        '''"""ending: 1 where both texts end in the same character, else 0."""

from collections.abc import Sequence

from pipeline.method.similarity import Pair


def measure(pairs: Sequence[Pair]) -> list[float]:
    return [float(p.text[-1:] == p.other[-1:]) for p in pairs]
''',
        "pipeline/method/similarity/__init__.py",
        "METRICS = (",
        'METRICS = ("ending", ',
    ),
    "scheduler": (
        "pipeline/method/schedulers/latest.py",
        '''"""latest: the last chunks of a response."""

from pipeline.method.schedulers import Response, greedy


def positions(response: Response) -> list[int]:
    last = len(response.entropies_T) - response.chunk
    return greedy(list(range(last, -1, -1)), response)
''',
        "pipeline/method/schedulers/__init__.py",
        "SCHEDULERS = (",
        'SCHEDULERS = ("latest", ',
    ),
    "objective": (
        "pipeline/method/objectives/half.py",
        '''"""half: omniopd with half of its weights."""

from pipeline.method.objectives import Evidence, Objective, Parts, Slice, Terms, omniopd
from pipeline.method.objectives.weighted import anchor, nll


class Settings(omniopd.Settings):
    share: float = 0.5


OBJECTIVE = Objective(("rollouts", "targets"), Settings)


def parts(evidence: Evidence, own: Settings) -> Parts:
    return omniopd.parts(evidence, own)


def terms(piece: Slice, own: Settings) -> Terms:
    return Terms(own.share * nll(piece, own.corrects), anchor(piece))
''',
        "pipeline/method/objectives/__init__.py",
        "OBJECTIVES = (",
        'OBJECTIVES = ("half", ',
    ),
    # a task: tests/tasks/test_extending_task.py
}
ARM = {"forks": {"scheduler": "latest"}, "score": {"metric": "ending"}}
# by the project's own code: that of the tests does not know what is added
PLANNED = """
import json
from pipeline.plan import expand, experiment
print(json.dumps(expand.expand(experiment.load())))
"""
HALF = ARM | {"train": {"objective": "half", "share": 0.25}}


@pytest.fixture
def project(small, tmp_path):
    found = small.copy(tmp_path / "project")
    for path, text, listed, before, after in ADDED.values():
        (found.folder / path).write_text(text)
        names = found.folder / listed
        assert names.read_text().count(before) == 1
        names.write_text(names.read_text().replace(before, after))
    return found


@pytest.mark.slow
def test_a_metric_a_scheduler_and_an_objective_more_act_and_rerun_nothing_else(
    project, monkeypatch
):
    before = ledger(project)
    project.edit(experiment__arms=["omniopd", "sft", "shuffled-scores", "mine", "half"])
    project.edit(arms__mine=ARM, arms__half=HALF)
    names = project.repro()
    planned = json.loads(project.run(sys.executable, "-c", PLANNED).stdout)
    monkeypatch.setattr(project, "plan", lambda: planned)
    stages = ("forks", "teach", "score", "calibrate", "prior", "train", "evaluate")
    # every metric of ours is part of what calibrate does, and its table stays what it was
    more = Counter(("calibrate", "train", "evaluate"))
    assert groups(names) == Counter(AGAIN) + Counter(stages) + more
    assert project.cell("half", 1, "prior") == project.cell("mine", 1, "prior")
    first = {}
    for arm in ("mine", "half"):
        lines = (project.cell(arm, 1, "train") / "metrics.jsonl").read_text().splitlines()
        first[arm] = json.loads(lines[0])["train/signal"]
    assert first["half"] == pytest.approx(first["mine"] / 4, rel=1e-5) != 0
    assert project.cell("mine", 1, "rollout") == project.cell("omniopd", 1, "rollout")
    assert ledger(project) != before  # its forks lie elsewhere

    rollouts = pd.read_parquet(project.cell("mine", 1, "rollout") / "rollouts.parquet")
    forks = pd.read_parquet(project.cell("mine", 1, "forks") / "forks.parquet")
    most = {r.rollout_id: len(r.token_ids) // 6 for r in rollouts.itertuples()}
    for name, starts in forks.groupby("rollout_id").position:
        total = len(rollouts.set_index("rollout_id").token_ids[name])
        assert list(starts) == [total - 6 * i for i in range(min(3, most[name]), 0, -1)]
    answers = pd.read_parquet(project.cell("mine", 1, "teach") / "answers.parquet")
    scores = pd.read_parquet(project.cell("mine", 1, "score") / "scores.parquet")
    merged = forks.merge(answers, on=["rollout_id", "position"])
    expected = [float(a[-1:] == b[-1:]) for a, b in zip(merged.chunk_text, merged.text)]  # noqa: B905
    assert list(scores.similarity) == expected
    assert 0 < sum(expected) < len(expected)
    rows = json.loads((project.folder / "data/report/results.json").read_text())
    assert {"mine", "half"} < {row["arm"] for row in rows}

    keys = {project.cell("mine", 1, stage).name for stage in ("forks", "score")}
    keys.add(project.cell("half", 1, "train").name)
    new = [name for name in names if name.partition("@")[2] in keys]
    assert len(new) == 3
    for name in new:
        assert project.loaded(name) <= project.reached(name)


@pytest.mark.parametrize(
    ("kind", "key"), [("metric", "score"), ("scheduler", "forks"), ("objective", "train")]
)
def test_a_name_that_is_not_listed_is_refused_with_those_that_are(tmp_path, kind, key):
    project = Project(tmp_path / "project")
    path, text, *_ = ADDED[kind]
    (project.folder / path).write_text(text)
    project.edit(arms__omniopd={key: {kind: HALF[key][kind]}})
    done = project.run("omniopd", "plan", check=False)
    assert done.returncode == 2
    assert f"{key}.{kind}: found '{HALF[key][kind]}', wanted one of" in done.stderr
