"""What `omniopd plan` and `omniopd why` say of cells whose code, inputs or params changed."""

import subprocess

import pytest
from ruamel.yaml import YAML

from pipeline.code_digest import history, locks, variants
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner.dag import plan_files, why
from tests.project import MINIATURE


class Made:
    """A plan in the current folder whose cells ran, as dvc.lock would have it."""

    def __init__(self, **changes):
        self.values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
        self.values["experiment"] |= {"arms": ["omniopd", "sft"]} | changes
        self.plan = expand.expand(experiment.of(self.values, ""))
        locks.write(variants.of_plan(self.plan))
        self.stages = {name: self.stage(name) for name in expand.upstream(self.plan)}

    def stage(self, name):
        group, _, key = name.partition("@")
        lock = locks.path(self.plan["cells"][group][key]["code"])
        dep = {"path": str(lock), "md5": history.md5(lock.read_text())}
        return {"deps": [dep], "outs": [{"path": f"data/{group}/{key}", "md5": key}]}

    def edited(self, variant, old, new):
        """The lock as it was before `new` was `old`; its cells ran with that."""
        text = locks.read(variant)
        assert text.count(new) == 1
        before = text.replace(new, old)
        for name in self.of(variant):
            self.stages[name]["deps"][0]["md5"] = history.md5(before)
        history.keep([before], self.stages)

    def of(self, variant):
        cells = self.plan["cells"]
        keys = [x.partition("@") for x in expand.upstream(self.plan)]
        return [f"{g}@{k}" for g, _, k in keys if cells[g][k]["code"] == variant]

    def lines(self, bill=lambda names: ""):
        return "\n".join(why.lines(self.plan, self.stages, bill))

    def explained(self, name):
        return why.explain(self.plan, self.stages, name)


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Made()


def line(variant, name):
    (found,) = [x for x in locks.read(variant).splitlines() if x.startswith(f"{name} ")]
    return found


def test_nothing_is_said_of_cells_whose_code_is_what_they_ran_with(made):
    assert made.lines() == ""
    assert made.explained("sft").splitlines() == [
        f"{name}: nothing changed since it ran"
        for name in expand.upstream(made.plan)
        if name.partition("@")[2] in str(made.plan["cells"]["arms"]["sft"])
    ]


def test_a_changed_function_is_named_with_its_file_and_the_cells_that_run_again(made):
    made.edited("train-sft", "terms 0123456789abcdef", line("train-sft", "terms"))
    said = made.lines()
    assert "train-sft: 1 cell reruns, for code: terms (pipeline/method/objectives/sft.py)\n" in said
    assert "2 more that read them" in said  # evaluate and report
    assert "verify-code" in said
    (name,) = made.of("train-sft")
    assert made.explained(name) == f"{name}:\n  code: terms (pipeline/method/objectives/sft.py)"
    evaluate = made.explained(made.plan["cells"]["arms"]["sft"]["seed-0"]["round-1"]["evaluate"])
    assert f"reads {name}, which may run" in evaluate


def test_libraries_files_and_new_and_lost_functions_are_told_apart(made):
    old = (
        "_a_lost_one 0123456789abcdef\nfile page.css 0123456789abcdef\ncalls 0\n"
        "library numpy 1.9\nread 1\nread 2\n"
    )
    new = "file page.css 1\nfile forks.js 1\ncalls 1\nlibrary numpy 2.3\nread 1\nread 3\nwrite 1\n"
    places = {
        "file page.css 1": "pipeline/report/page/page.css",
        "write 1": "pipeline/data/tables.py",
    }
    assert why.differences(f"# A\n{old}", f"# B\n{new}", places) == [
        "_a_lost_one is gone",
        "forks.js is new",
        "page.css (pipeline/report/page/page.css)",
        "numpy 1.9 -> 2.3",
        "read",
        "write (pipeline/data/tables.py) is new",
    ]
    assert why.differences("a 1\ncalls 0\n", "a 1\ncalls 1\n", {}) == [
        "the same functions, put together otherwise"
    ]


def test_cells_that_ran_on_files_of_code_are_counted_and_none_runs_again_in_silence(made):
    for stage in made.stages.values():
        stage["deps"] = [{"path": "stages/train.py", "md5": "0"}]
    said = made.lines()
    assert said.startswith(f"{len(made.stages)} cells ran when each file of code was a dependency")
    assert "Run `omniopd verify-code` first" in said
    assert "ran when each file of code was a dependency; now code/" in made.explained("omniopd")


def test_what_the_cells_that_run_again_buy_is_asked_of_those_and_what_follows(made):
    asked = []
    made.edited("forks-peak-entropy", "positions 0", line("forks-peak-entropy", "positions"))
    said = made.lines(lambda names: asked.append(names) or "teach: nothing is bought")
    assert said.endswith("teach: nothing is bought")
    (names,) = asked
    assert {"forks", "teach"} <= {name.partition("@")[0] for name in names}
    assert "rollout" not in {name.partition("@")[0] for name in names}


def test_an_input_that_is_another_is_named(made):
    (name,) = made.of("train-sft")
    (teach,) = (x for x in made.stages if x.startswith("teach-solutions"))
    path = made.stages[teach]["outs"][0]["path"]
    made.stages[name]["deps"].append({"path": path, "md5": "before"})
    assert made.explained(name) == f"{name}:\n  input: {path} is another"


def test_a_lock_of_before_is_found_beside_the_project_and_in_git_and_else_said_to_be_lost(made):
    text = locks.read("train-sft")
    wanted, now = history.md5(text), f"{text}x 1\n"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "code"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    locks.path("train-sft").write_text(now)
    assert history.text("train-sft", wanted) == text
    (made.plan and history.KEPT / f"{wanted}.lock").unlink(missing_ok=True)
    assert history.text("train-sft", history.md5(now)) == now
    assert history.text("train-sft", "0") is None
    made.stages[made.of("train-sft")[0]]["deps"][0]["md5"] = "0"
    assert "neither in .code nor in git" in made.explained("sft")


def test_locks_that_a_merge_made_or_did_not_take_are_found_in_git(made):
    here = locks.read("train-sft")
    branch, merged = f"{here}x 1\n", f"{here}x 2\n"

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    def commit(text):
        locks.path("train-sft").write_text(text)
        git("add", "code")
        git("commit", "-qm", "a", "--allow-empty")

    git("init", "-q", "-b", "main")
    commit(here)
    git("checkout", "-qb", "other")
    commit(branch)
    git("checkout", "-q", "main")
    commit(here)
    git("merge", "-q", "-s", "ours", "--no-commit", "other")
    commit(merged)
    commit(here)
    git("branch", "-qD", "other")
    for text in (branch, merged):
        assert history.text("train-sft", history.md5(text)) == text


def test_only_locks_that_cells_ran_with_are_kept(made):
    old, other = "a 1\n", "b 1\n"
    made.stages["x"] = {"deps": [{"path": "code/x.lock", "md5": history.md5(old)}]}
    history.keep([old, other], made.stages)
    assert [path.read_text() for path in history.KEPT.iterdir()] == [old]
    del made.stages["x"]
    history.keep([], made.stages)
    assert not list(history.KEPT.iterdir())


def test_a_new_cell_says_which_params_differ_from_the_committed_plan(made, monkeypatch):
    before = made.plan
    groups = {key: cell for name in expand.GROUPS for key, cell in before["cells"][name].items()}
    monkeypatch.setattr(history, "committed_plan", lambda: before)
    monkeypatch.setattr(history, "committed_cell", groups.get)
    made.values["train"]["lr"] = 0.5
    made.plan = expand.expand(experiment.of(made.values, ""))
    key = made.plan["cells"]["arms"]["sft"]["seed-0"]["round-1"]["train"]
    old = before["cells"]["train-sft"]
    (lr,) = {cell["params"]["lr"] for cell in old.values()}
    assert made.explained(key).splitlines()[1:] == [
        "  has not run with these params and inputs",
        f"  params: lr {lr} -> 0.5",
    ]


def test_a_name_that_is_neither_cell_nor_arm_is_refused(made):
    with pytest.raises(UserError, match="'nobody' is neither a cell nor an arm"):
        made.explained("nobody")


def test_a_plan_of_other_code_is_refused_before_anything_runs(made):
    plan_files.mark(made.plan)
    locks.path("prior").unlink()
    with pytest.raises(UserError, match=r"code/prior.lock does not exist"):
        plan_files.mark(made.plan)
