"""A stage runs only the code that its cell's lock says, wherever and however it is started."""

import sys
from types import ModuleType

import pytest

from pipeline.code_digest import guard, locks, variants
from pipeline.core.errors import STATUS, UserError
from pipeline.plan import expand, experiment
from pipeline.processes import fork_server
from pipeline.stage import cells
from tests.code_digest.test_locks import STEPS, planned
from tests.locked import put
from tests.project import MINIATURE, ROOT, Project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a plan and locks, of which nothing ran."""
    project = Project(tmp_path_factory.mktemp("guard") / "project")
    wanted = expand.expand(experiment.load(MINIATURE))
    put(project.folder, wanted)
    locks.write(variants.of_plan(wanted), project.folder)
    project.keys = {name: next(iter(wanted["cells"][name])) for name in ("prepare", "pretrain")}
    return project


@pytest.fixture
def project(made, tmp_path):
    found = made.copy(tmp_path / "project")
    found.keys = made.keys
    return found


def started(project, stage="prepare", *more, **extra):
    """A stage of the plan's cell, and the table that prepare is to write."""
    key = project.keys[stage]
    command = ("omniopd", "stage", stage, "--cell", key, *more)
    done = project.run(*command, "--out", f"data/{stage}/{key}", check=False, **extra)
    return done, project.folder / "data" / stage / key / "prompts.parquet"


def edit(project, path, old, new):
    file = project.folder / path
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


def test_a_stage_of_other_code_than_its_lock_says_reads_and_writes_nothing(project):
    edit(
        project,
        "stages/prepare.py",
        "    p = cells.params(",
        "    # a comment\n    p = cells.params(",
    )
    done, table = started(project)
    assert done.returncode == 0, done.stderr
    before = table.read_bytes()
    edit(project, "pipeline/tasks/arithmetic.py", "def load(", "def load(*, _more=1, ")
    done, table = started(project)
    assert done.returncode == STATUS
    assert "code/prepare-arithmetic.lock is of other code: load changed since" in done.stderr
    assert "Run `omniopd plan`" in done.stderr
    assert table.read_bytes() == before
    (project.folder / "code/prepare-arithmetic.lock").unlink()
    done, _ = started(project)
    assert "code/prepare-arithmetic.lock does not exist" in done.stderr


def test_a_stage_that_the_fork_server_starts_is_asked_too(project, forks):
    absent = ("pretrain", "--prompts", "absent.parquet")
    done, _ = started(project, *absent, **forks)
    assert "absent.parquet: no such table" in done.stderr  # so the lock is right
    edit(project, "stages/pretrain.py", "0.5 * (1 + math.cos", "0.5 * (1 - math.cos")
    done, _ = started(project, *absent, **forks)
    assert done.returncode == STATUS
    assert "pretrain-arithmetic-characters.lock is of other code: _schedule changed" in done.stderr


def test_a_stage_that_loads_what_its_lock_leaves_out_is_stopped(project):
    """The import is in a function of the stage, and of another task: a variant leaves it out."""
    edit(project, "stages/prepare.py", "@cells.entry\n", f"{LOADS}@cells.entry\n")
    line = "            run.rows_out += "
    edit(project, "stages/prepare.py", line, f"            _loads()\n{line}")
    locks_of(project)
    done, table = started(project)
    assert done.returncode not in (0, STATUS)
    lock = "code/prepare-arithmetic.lock does not hold it"
    assert f"pipeline.tasks.math is loaded, and {lock}" in done.stderr
    assert not table.exists()


LOADS = "def _loads():\n    import pipeline.tasks.math\n    return pipeline\n\n\n"


def locks_of(project):
    """The locks of the project's own code, as its own `omniopd plan` writes them."""
    code = (
        "from pipeline.plan import experiment, expand as plan\n"
        "from pipeline.code_digest import locks, variants\n"
        "locks.write(variants.of_plan(plan.expand(experiment.load())))"
    )
    project.run(sys.executable, "-c", code)


def test_each_stage_of_a_cell_of_steps_is_asked_by_the_lock_of_its_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "steps-rollout-arithmetic-train-gkd"
    steps = planned(**STEPS)
    locks.write({name: steps[name]})
    ((key, cell),) = _cells_of("steps-rollouts").items()
    put(tmp_path, {"cells": {"steps-rollouts": {key: cell}}})
    monkeypatch.setitem(cells._inside, ("train", f"{key}/1"), ("train-opd", {}))
    cells.check_code("steps", key)
    cells.check_code("train", f"{key}/1")
    lock = locks.path(name)
    lock.write_text(lock.read_text().replace("\nterms ", "\nterms x"))
    for stage, one in (("steps", key), ("train", f"{key}/1")):
        with pytest.raises(UserError, match=f"code/{name}.lock is of other code: terms"):
            cells.check_code(stage, one)


def _cells_of(group):
    from ruamel.yaml import YAML

    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    values["experiment"] |= STEPS
    return expand.expand(experiment.of(values, ""))["cells"][group]


def test_imports_beyond_a_variant_are_refused_and_others_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = planned()["prior"]
    locks.write({"prior": prior})
    stages = ModuleType("stages")
    stages.__file__ = f"{ROOT}/stages/__init__.py"
    own = [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages", "json")]
    within = locks.codes([prior])["prior"].modules
    with pytest.MonkeyPatch.context() as patch:
        for name in own:  # as in a process of the stage alone
            if name not in within:
                patch.delitem(sys.modules, name)
        patch.setattr(sys, "meta_path", list(sys.meta_path))
        patch.setitem(sys.modules, "stages", stages)
        guard.check(prior, confine=True)
        assert sys.meta_path[0].find_spec("json", None) is None
        assert sys.meta_path[0].find_spec("pipeline.data.tables", None) is None
        with pytest.raises(
            ImportError, match=r"pipeline.plan.expand is loaded, and code/prior.lock"
        ):
            sys.meta_path[0].find_spec("pipeline.plan.expand", None)
        patch.setattr(stages, "__file__", "/elsewhere/stages/__init__.py")
        with pytest.raises(UserError, match=r"found the stages in /elsewhere and pipeline in"):
            guard.check(prior, confine=True)
        patch.setattr(stages, "__file__", f"{ROOT}/stages/__init__.py")
        patch.setitem(sys.modules, "pipeline.plan.expand", ModuleType("pipeline.plan.expand"))
        with pytest.raises(ImportError, match=r"pipeline.plan.expand is loaded"):
            guard.check(prior, confine=True)
    assert fork_server.stage(sys.orig_argv) == ""  # so this process is not confined
