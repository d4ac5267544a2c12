"""`omniopd compare` says what the report's own files say, of whatever the experiments are."""

import json
import re
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.analysis import bootstrap
from pipeline.commands.compare import answers, compared, found, picture, shown
from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from tests.browser import no_barrier

POINTS = ["exact-lr-1e-3", "exact-lr-3e-3", "edit-lr-1e-3", "edit-lr-3e-3"]


@pytest.fixture
def here(swept, monkeypatch):
    monkeypatch.chdir(swept.folder)
    return swept


def compare(*names):
    with ExitStack() as stack:
        experiments = found.experiments(names, stack)
        numbers = {one.name: compared.measured(one) for one in experiments}
        return compared.document(experiments, numbers)


def report(folder, name):
    return json.loads((folder / "data" / "report" / f"{name}.json").read_text())


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def the(values, arm, name):
    return next(r for r in values["rows"] if (r["arm"], r["experiment"]) == (arm, name))


def test_a_sweep_is_its_points_with_the_accuracies_of_the_report(here):
    values = compare("metric-lr")
    assert list(values["basis"]) == POINTS
    pooled = {row["arm"]: row for row in report(here.folder, "pooled")}
    for name, arm in (
        ("exact-lr-3e-3", "omniopd-exact-lr-3e-3"),
        ("edit-lr-1e-3", "omniopd"),  # as params.yaml has it
    ):
        row = the(values, "omniopd", name)
        for key in ("accuracy", "low", "high", "diff", "diff_low", "diff_high"):
            assert row[key] == pooled[arm][key]
    assert values["params"] == {
        "score.metric": dict(zip(POINTS, ["exact", "exact", "edit", "edit"], strict=True)),
        "train.lr": dict(zip(POINTS, [0.001, 0.003, 0.001, 0.003], strict=True)),
    }


def test_differences_are_paired_and_what_has_the_same_cells_has_none(here):
    values = compare(*POINTS)
    assert the(values, "omniopd", POINTS[0])["minus_first"] is None
    own, first = (the(values, "omniopd", name) for name in (POINTS[3], POINTS[0]))
    diff = own["minus_first"]
    assert diff["diff"] == pytest.approx(own["accuracy"] - first["accuracy"])
    assert diff["low"] <= diff["diff"] <= diff["high"]
    sft = the(values, "sft", "edit-lr-1e-3")  # no metric is read
    assert (sft["minus_first"], sft["why_not"]) == (None, "the same cells")


def test_shared_cells_and_what_they_took_count_once_together(here):
    values = compare(*POINTS)
    own = {one["experiment"]: one for one in values["cells"]}
    assert values["together"] < sum(one["cells"] for one in own.values())
    assert all(0 < one["shared"] < one["cells"] for one in own.values())
    each = [one["seconds"] for one in values["costs"].values()]
    assert max(each) < values["costs_together"]["seconds"] < sum(each)
    rows = report(here.folder, "costs")
    (alone,) = (r for r in rows if r["arm"] == "omniopd-exact-lr-3e-3")
    shown_ = the(values, "omniopd", "exact-lr-3e-3")
    assert shown_["teacher_tokens_alone"] == alone["total_teacher_tokens_out_alone"]


def test_a_revision_is_read_from_the_cache_and_a_folder_as_it_is(swept, tmp_path, monkeypatch):
    project = swept.copy(tmp_path / "project")
    git(project.folder, "add", "-A")
    git(project.folder, "commit", "-qm", "one")
    other = project.copy(tmp_path / "other")
    shutil.rmtree(project.folder / "data" / "evaluate")
    monkeypatch.chdir(project.folder)
    values = compare("HEAD", str(other.folder), "edit-lr-3e-3")
    first = the(values, "omniopd", "HEAD")
    assert first["accuracy"] == the(values, "omniopd", str(other.folder))["accuracy"]
    assert the(values, "omniopd", str(other.folder))["why_not"] == "the same cells"
    assert values["params"] == {
        "train.lr": {"HEAD": 0.001, str(other.folder): 0.001, "edit-lr-3e-3": 0.003}
    }
    shutil.rmtree(project.folder / ".dvc" / "cache")
    with pytest.raises(UserError, match="dvc fetch"):
        compare("HEAD")


def test_old_names_and_what_is_kept_of_checkpoints_are_no_difference(swept, tmp_path, monkeypatch):
    other = swept.copy(tmp_path / "other")
    file = other.folder / "params.yaml"
    text = file.read_text()
    assert "max_grad_norm: 1.0" in text
    text = text.replace("max_grad_norm:", "clip:")
    file.write_text(text.replace("experiment:\n", "experiment:\n  keep: last\n", 1))
    monkeypatch.chdir(swept.folder)
    with ExitStack() as stack:
        one, earlier = found.experiments([".", str(other.folder)], stack)
    assert earlier.values == one.values
    assert one.values["train.max_grad_norm"] == 1.0


def test_what_has_not_run_is_left_out(swept, tmp_path, monkeypatch):
    project = swept.copy(tmp_path / "project")
    monkeypatch.chdir(project.folder)
    for lock in project.folder.glob("dag/omniopd-exact-lr-3e-3/*/dvc.lock"):
        lock.unlink()
    values = compare("exact-lr-3e-3", "edit-lr-3e-3")
    assert list(values["missing"]["exact-lr-3e-3"]) == ["omniopd"]
    assert "exact-lr-3e-3 is left without omniopd" in shown.text(values)


def test_other_problems_and_other_seeds_give_no_difference(here):
    one, other = ({0: bootstrap.graded(names, [True, False])} for names in (["a", "b"], ["a", "c"]))
    assert compared.minus(one, one, same=True) == (0.0, 0.0, 0.0)
    assert compared.minus(one, other, same=True) == "other problems"
    assert compared.minus(one, one, same=False) == "other problems"
    assert compared.minus(one, {1: one[0]}, same=True) == "other seeds"
    with ExitStack() as stack:
        first, second = found.experiments(POINTS[:2], stack)
    assert compared.same_problems(first, second)
    changed = replace(second, values={**second.values, "prepare.seed": 8})
    assert not compared.same_problems(first, changed)


def test_a_name_that_is_nothing_is_told_with_what_there_is(here):
    with pytest.raises(UserError, match=r"edit-lr-3e-3.*Correct the name"):
        compare("nothing-of-the-kind")
    with pytest.raises(UserError, match="twice"):
        compare("metric-lr", "edit-lr-3e-3")


def test_the_command_prints_tables_and_draws_a_picture(here, tmp_path):
    path = tmp_path / "comparison.png"
    said = here.run("omniopd", "compare", "metric-lr", "--picture", str(path)).stdout
    assert "| omniopd" in said
    assert "Together" in said
    assert f"picture: {path}" in said
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    picture.draw(compare("edit-lr-3e-3"), tmp_path / "one.png")  # one panel
    with Image.open(tmp_path / "one.png") as image:
        assert image.width < 1300


def evals(folder, arm, name):
    point = yaml_files.load(folder / "dag/report.yaml")["params"]["arms"]
    own = point["omniopd-" + name if arm == "omniopd" and name != POINTS[2] else arm]["seed-0"]
    key = max(own.items(), key=lambda item: int(item[0].removeprefix("round-")))[1]["evaluate"]
    rows = pq.read_table(folder / f"data/evaluate/{key}/evals.parquet").to_pylist()
    return {(r["problem_id"], r["decoding"], r["sample"]): r for r in rows}


def test_answers_are_put_beside_those_of_the_first(here):
    names = POINTS[2:3] + POINTS[:1]
    with ExitStack() as stack:
        found_ = answers.view(found.experiments(names, stack))
    views = {one["arm"]: one for one in found_["views"]}
    assert "base, exact-lr-1e-3" not in views  # the same cells
    view = views["omniopd, exact-lr-1e-3"]
    assert view["versus"] == "omniopd, edit-lr-1e-3"
    kinds = {"sample 1": ("sampled", 0), "greedy": ("greedy", 0), "sample 2": ("sampled", 1)}
    before, after = (evals(here.folder, "omniopd", name) for name in names)
    assert len(found_["problems"]) == len({place[0] for place in after})
    for n, kind in enumerate(found_["kinds"]):
        cases = []
        for (name, *_), one, other in zip(
            found_["problems"], found_["bases"][view["base"]], view["answers"], strict=True
        ):
            first, last = (rows[name, *kinds[kind]] for rows in (before, after))
            assert found_["texts"][one[n][0]] == first["response"]
            assert found_["texts"][other[n][0]] == last["response"]
            cases.append((first["correct"], last["correct"]))
        wanted = [(False, True), (True, False), (True, True), (False, False)]
        assert view["tally"][n] == [cases.count(case) for case in wanted]
    assert all(asked >= 0 for _, _, asked, _ in found_["problems"])


def test_seeds_that_do_not_fit_into_the_page_are_named(here, monkeypatch):
    given = {}
    monkeypatch.setattr(answers, "paired", lambda *told: given.update(left=told[3]))
    with ExitStack() as stack:
        experiments = found.experiments(POINTS[:2], stack)
        answers.view(experiments)
        assert given["left"] == []
        shown_ = answers.evaluated
        monkeypatch.setattr(
            answers, "evaluated", lambda evals: [x for x in shown_(evals) if x.seed != 0]
        )
        answers.view(experiments)
    assert given["left"] == [0]


def test_answers_to_other_problems_are_not_put_beside_each_other(here):
    with ExitStack() as stack:
        one, other = found.experiments(POINTS[:2], stack)
    assert answers.view([one]) is None
    assert answers.view([one, replace(other, values={**other.values, "prepare.seed": 9})]) is None


@pytest.mark.browser
def test_the_page_of_a_comparison_opens_and_its_answers_can_be_filtered(here, tmp_path, visit):
    path = tmp_path / "page.html"
    said = here.run("omniopd", "compare", "metric-lr", "--page", str(path)).stdout
    assert f"page: {path}" in said
    page = visit(path=path)
    assert page.title() == "4 experiments"
    assert page.locator("h2").all_inner_texts() == [
        "Results", "What differs in params.yaml", "Cells and costs", "Answers",
    ]  # fmt: skip
    shown_ = page.locator("#results table").inner_text()
    for name in POINTS:
        assert name in shown_
    row = the(compare("metric-lr"), "omniopd", POINTS[1])
    assert f"{row['accuracy']:.3f}" in shown_
    arms = page.locator("#a-arm option").all_inner_texts()
    assert "omniopd, exact-lr-3e-3" in arms
    page.select_option("#a-arm", label="omniopd, exact-lr-3e-3")
    page.select_option("#a-case", "right")
    tally = page.locator("#a-tally").inner_text()
    right = int(re.search(r"(\d+) now right", tally)[1])
    found_ = page.locator("#a-list li")
    assert found_.count() == min(right, 12)
    if right:
        assert "omniopd, exact-lr-1e-3" in found_.first.inner_text()
    no_barrier(page)
