"""What DVC's own commands show: a row an arm, a line an arm, params.yaml alone, a graph by arm."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import finished
from pipeline.commands.exp import dag_picture
from pipeline.plan import expand
from pipeline.report import dvc_views
from pipeline.runner.dag import plan_files
from tests.project import MINIATURE, ROOT
from tests.report.test_page import ASKS

ARMS = ["base", "omniopd", "shuffled-scores", "pair", "zero-score", "grpo", "sft"]


def dvc(folder, *words):
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shown(made, tmp_path_factory):
    """A project of DVC with the report of the experiment by hand, and our own views of it."""
    folder = tmp_path_factory.mktemp("views")
    shutil.copytree(made / "data/report", folder / "data/report")
    views = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({name: views[name] for name in ("metrics", "plots")}, file)
    dvc(folder, "init", "-q", "--no-scm")
    config = (ROOT / ".dvc/config").read_text()
    (folder / ".dvc/config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    return folder


def test_metrics_show_has_a_row_for_each_arm(shown):
    lines = dvc(shown, "metrics", "show").splitlines()
    paths = [line.split()[0] for line in lines[1:]]
    assert sorted(paths) == sorted(f"data/report/metrics/{arm}.json" for arm in ARMS)
    assert lines[0].split()[:2] == ["Path", "accuracy"]
    results = json.loads((shown / "data/report/results.json").read_text())
    found = json.loads(dvc(shown, "metrics", "show", "--json"))[""]["data"]
    for row in results:
        own = found[f"data/report/metrics/{row['arm']}.json"]["data"]
        name = "greedy" if row["decoding"] == "greedy" else "accuracy"
        assert own[name] == pytest.approx(row["accuracy"])
        assert own["diff"] == pytest.approx(row["diff"]) or name == "greedy"


def step(arm, seed, loss):
    return {"arm": arm, "seed": seed, "round": 1, "train/loss": loss}


def test_a_line_is_the_mean_over_seeds_and_counts_steps_over_rounds():
    steps = [step("a", 0, 1.0), step("a", 0, 2.0), step("a", 1, 3.0), step("b", 0, 5.0)]
    assert dvc_views.losses(steps) == [
        {"arm": "a", "step": 1, "loss": 2.0},
        {"arm": "a", "step": 2, "loss": 2.0},
        {"arm": "b", "step": 1, "loss": 5.0},
    ]


def point(arm, seed, round_, accuracy):
    return {"arm": arm, "seed": seed, "round": round_, "source": "evaluation"} | {
        "accuracy": accuracy
    }


def test_the_line_of_an_arm_begins_at_base():
    points = [point("base", 0, 0, 0.25), point("base", 1, 0, 0.75), point("a", 0, 3, 1.0)]
    found = [(row["arm"], row["round"], row["accuracy"]) for row in dvc_views.curves(points)]
    assert found == [("a", 0, 0.5), ("a", 3, 1.0)]


def test_metrics_of_several_tasks_and_seeds():
    pooled = [
        {"arm": "a", "round": r, "task": t, "seeds": 2, **dict.fromkeys(dvc_views.POOLED, value)}
        for r, t, value in [(1, "x", 0.1), (3, "x", 0.2), (3, "y", 0.4), (3, "all", 0.3)]
    ]
    results = [
        {"arm": "a", "seed": s, "round": 3, "task": t, "decoding": "greedy"}
        | {"accuracy": s / 2, "tokens_used": 10 * (s + 1)}
        for s in (0, 1)
        for t in ("x", "y", "all")
    ]

    class Evals:
        tables = ()

    own = dvc_views.metrics(Evals(), results, pooled)["a"]
    assert (own["round"], own["seeds"], own["accuracy"], own["greedy"]) == (3, 2, 0.3, 0.25)
    assert own["tokens_used"] == 15
    assert own["y"]["accuracy"] == 0.4


def test_the_plots_page_names_no_address(shown):
    dvc(shown, "plots", "show")
    text = (shown / "dvc_plots/index.html").read_text()
    assert not ASKS.search(text)
    assert text.count("vegaEmbed('#") == 2


@pytest.mark.browser
def test_the_plots_draw_a_line_for_each_arm_and_load_nothing(shown, chromium):
    dvc(shown, "plots", "show")
    said, asked = [], []
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    url = (shown / "dvc_plots/index.html").as_uri()
    page.goto(url)
    page.wait_for_selector("svg.marks")
    plots = page.locator("svg.marks")
    assert plots.count() == 2
    labels = [plots.nth(i).locator(".role-legend-label text").all_text_contents() for i in (0, 1)]
    assert labels == [ARMS[1:], ARMS[1:]]  # base has no line
    steps = json.loads((shown / "data/report/plots/losses.json").read_text())
    trained = {row["arm"] for row in steps}
    assert plots.nth(1).locator(".mark-line path").count() == len(trained) > 3
    panels = plots.nth(0).locator(".role-column-header text").all_text_contents()
    assert panels == ["evaluation", "rollouts"]
    colours = {
        path.get_attribute("stroke") for path in plots.nth(0).locator(".mark-line path").all()
    }
    assert len(colours) == len(ARMS[1:])
    context.close()
    assert (said, asked) == ([], [url])


def test_params_diff_lists_params_yaml_alone(tmp_path):
    values = YAML(typ="safe", pure=True).load(MINIATURE.read_text())
    folder = tmp_path / "project"
    finished.now(folder, values, ran=True)
    for words in (
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    values["train"]["beta"] = 0.2
    with contextlib.chdir(folder):
        finished._yaml(Path("params.yaml"), values)
        plan_files.write()
    found = json.loads(dvc(folder, "params", "diff", "--json"))
    assert found == {"params.yaml": {"train.beta": {"old": 0.1, "new": 0.2, "diff": 0.1}}}


def test_the_graph_by_arm_fits_a_screen_and_is_the_plan(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = plan_files.current()
    text = dag_picture.picture("md")
    nodes = dict(re.findall(r'(node\d+)\["([^"]+)"\]', text))
    edges = {(nodes[a], nodes[b]) for a, b in re.findall(r"(node\d+)-->(node\d+)", text)}
    counts = {x.partition(":")[0]: int(re.sub(r"\D", "", x) or 0) for x in nodes.values()}
    assert len(text.splitlines()) <= 40
    assert set(counts) == {"plan", "shared", "report", *found["cells"]["arms"]}
    assert sum(counts.values()) + 1 == len(expand.upstream(found))
    assert ("plan", f"shared: {counts['shared']} cells") in edges
    assert (f"omniopd: {counts['omniopd']} cells", "report") in edges
    assert f"sft: {counts['sft']} cells, after shared" in dag_picture.picture("text").splitlines()
