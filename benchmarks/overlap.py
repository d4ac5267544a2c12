"""Wall time of rollout, forks and teach where answers are bought while responses are sampled.

overlap_wall   the three by one plain `dvc repro`, answers bought ahead; peer: the longer one of
               rollout alone and teach alone, each by a `dvc repro` of its own, teach.ahead false

The teacher is a server on loopback that takes SECONDS for a reply, and is asked CONCURRENT requests
at a time. The student is a small llama on engine hf. Each side has a project and a store of its
own, where pretraining is done; the tables that both write are compared.
"""

import sys
from pathlib import Path

from benchmarks.measure import Row, row, seconds
from tests.project import Project
from tests.servers import Pure

SECONDS, CONCURRENT = 1.0, 16
PROMPTS, SAMPLES, TOKENS = 64, 4, 64  # of the rollout
BATCH = 100  # tokens of a batch, with padding: a response at a time, so that it takes a while
FORKS, N = 3, 5
STAGES = ("rollout", "forks", "teach")


def rows(scratch: Path) -> list[Row]:
    with Pure(seconds=SECONDS).running() as server:
        base = _project(scratch / "base", server.url)
        together, apart = base.copy(scratch / "together"), base.copy(scratch / "apart")
        apart.edit(teach__ahead=False)
        alone = {name: seconds(lambda: _repro(apart, name)) for name in STAGES}  # noqa: B023
        wall = seconds(lambda: _repro(together, STAGES[-1]))
    run = (together.cell("omniopd", 1, "rollout") / "run.json").read_text()
    sys.stderr.write(f"alone: {alone}; together: {wall}; {run}\n")
    for name in STAGES:
        assert together.files(_cell(together, name)) == apart.files(_cell(apart, name))
    longer = max(alone["rollout"], alone["teach"])
    return [row("overlap_wall", "s", "lower", "the longer stage alone", [wall], [longer])]


def _project(folder: Path, url: str) -> Project:
    """A project of one arm, in which everything before its rollout has run."""
    found = Project(folder)
    student = {"init": {"kind": "llama", "hidden": 256, "layers": 6, "heads": 4, "mlp": 512}}
    api = {"kind": "openai_compatible", "model": "stub-1", "base_url": f"{url}/v1"}
    found.edit(
        experiment__arms=["omniopd"],
        arms={"omniopd": {}},
        prepare__train=4 * PROMPTS,
        pretrain__models={"sloppy": {**student, "steps": 20, "batch_size": 16, "lr": 1.0e-3}},
        runtime__batch_tokens=BATCH,
        rollout__prompts_per_round=PROMPTS,
        rollout__samples_per_prompt=SAMPLES,
        rollout__max_new_tokens=TOKENS,
        forks__max_forks=FORKS,
        teach__samples=N,
        teach__teacher="api",
        teach__continuation="prefill",
        teachers={"api": {**api, "concurrency": CONCURRENT}},
    )
    found.run("omniopd", "plan")
    policy = found.yaml(f"dag/cells/rollout/{found.cell('omniopd', 1, 'rollout').name}.yaml")
    _run(found, f"pretrain@{policy['policy'].rpartition('/')[2]}")
    return found


def _cell(project: Project, stage: str) -> str:
    """The arm's cell of a stage, as DVC's locks call it."""
    key = project.cell("omniopd", 1, stage).name
    return next(f"{group}@{key}" for group, own in project.plan()["cells"].items() if key in own)


def _repro(project: Project, stage: str) -> None:
    _run(project, _cell(project, stage))


def _run(project: Project, cell: str) -> None:
    project.run("dvc", "repro", project.address(cell))
