"""From an empty folder to a pushed student, by the commands of README and docs/: own prompts that
nothing can grade, a student from a folder, a teacher that is a URL, a stand-in hub on loopback."""

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from tests.hub_server import Hub
from tests.project import BIN
from tests.servers import Pure

TOKEN, KEY = "hf_a-token-that-nobody-sees", "sk-a-key-that-nobody-sees"


@pytest.fixture
def type_(tmp_path, full):
    """Run a command line in the empty folder, or in the project that `init` made there."""
    shutil.copytree(full.cell("omniopd", 1, "train") / "checkpoint", tmp_path / "student")
    with Hub(TOKEN).running() as hub:
        own = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
        own |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        own |= {"OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
        dropped = ("HF_", "PYTHONPATH", "JUDGMENTS_URL")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)} | own

        def run(*words, folder="my"):
            done = subprocess.run(
                words, cwd=tmp_path / folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr

        run.hub = hub
        yield run


def _held_out(folder, said):
    """Agreement on the last prompts, as pandas computes it from the tables."""
    rows = json.loads((folder / "data/report/held_out.json").read_text())
    assert [(r["of"], r["arm"], r["round"]) for r in rows] == [
        (of, *arm) for of in ("answers", "forks") for arm in (("base", 0), ("omniopd", 2))
    ]
    found = {}
    for row in rows:
        arm, of = row["arm"], row["of"]
        own = folder / f"data/arms/{arm}+held-out/seed-0/round-{row['round']}"
        scores = pd.read_parquet(own / f"score-{of}/scores.parquet")
        rollouts = pd.read_parquet(own / f"rollout-{of}/rollouts.parquet")
        prompt = scores.rollout_id.map(rollouts.set_index("rollout_id").prompt_id)
        found[of, arm] = scores.similarity.groupby(prompt).mean()
        assert row["similarity"] == pytest.approx(found[of, arm].mean())
        assert row["prompts"] == len(found[of, arm]) == 8
        assert set(scores["sample"]) == {0, 1, 2}
        if of == "answers":  # the whole response, from its beginning on
            forks = pd.read_parquet(own / f"forks-{of}/forks.parquet")
            assert (forks.position == 0).all()
            assert list(forks.chunk_text) == list(rollouts.text)
    for row in (row for row in rows if row["arm"] == "omniopd"):
        pair = found[row["of"], "omniopd"] - found[row["of"], "base"]
        assert row["diff"] == pytest.approx(pair.mean())
        assert row["diff_low"] <= row["diff"] <= row["diff_high"]
    used = pd.concat(
        pd.read_parquet(p / "rollouts.parquet").prompt_id
        for p in (folder / "data/arms/omniopd/seed-0").glob("round-*/rollout")
    )
    assert not set(used) & set(rollouts.prompt_id)  # no round trained on them
    assert "omniopd: " in said
    for text in ("results.md", "index.html"):
        assert "Agreement on held-out prompts" in (folder / "data/report" / text).read_text()


SHOWN = re.compile(r"<answer (.)>\n(.*?)\n</answer", re.DOTALL)


def judging(request, reply):
    """A judge that likes digits: the answer with more of them wins; some it refuses."""
    answers = dict(SHOWN.findall(json.dumps(request).replace("\\n", "\n")))
    if answers:
        first, second = (sum(map(str.isdigit, answers[name])) for name in "AB")
        said = "A" if first > second else "B" if second > first else "tie"
        text = "I can't help with that." if (first + second) % 3 == 0 else f"{said}."
        for choice in reply["choices"]:
            choice["message"]["content"], choice["finish_reason"] = text, "stop"
    return reply


def _judged(folder):
    """The judge's share, from the texts of both students."""
    (row,) = json.loads((folder / "data/report/judged.json").read_text())
    own = folder / "data/arms/omniopd+held-out/seed-0/round-2"
    base = folder / "data/arms/base+held-out/seed-0/round-0/rollout-judge"
    texts = [
        pd.read_parquet(place / "rollouts.parquet").set_index(["prompt_id", "sample"]).text
        for place in (own / "rollout-judge", base)
    ]
    ours, theirs = (one.map(lambda text: sum(map(str.isdigit, text))) for one in texts)
    kept = ours.index.get_level_values("sample") < 2
    ours, theirs = ours[kept], theirs[kept]
    read = (ours + theirs) % 3 != 0
    worth = (0.5 + 0.5 * np.sign(ours - theirs)).where(read, 0.5)
    assert row["share"] == pytest.approx(worth.groupby("prompt_id").mean().mean())
    assert row["unread"] == 2 * (~read).sum()  # in both orders
    assert row["won"] == 2 * ((ours > theirs) & read).sum()
    assert row["lost"] == 2 * ((ours < theirs) & read).sum()
    assert row["won"] + row["lost"] + row["tied"] + row["unread"] == 2 * 2 * 8
    assert min(row["won"] + row["lost"], row["unread"]) > 0  # or the test says little
    assert row["consistent"] == 1
    assert row["low"] <= row["share"] <= row["high"]
    for text in ("results.md", "index.html"):
        shown = (folder / "data/report" / text).read_text()
        assert "Judged beside the untrained student" in shown


def test_an_empty_folder_becomes_a_pushed_student(tmp_path, type_):
    type_("omniopd", "init", "my", "--profile", "smollm2", folder=".")
    prompts = [{"prompt": f"{i}+{2 * i}?"} for i in range(12, 44)]
    (tmp_path / "my/my.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    file, yaml = tmp_path / "my/params.yaml", YAML()
    values = yaml.load(file)
    with Pure(change=judging).running() as teacher:
        # what docs/tasks.md says, and sizes for a test
        values["experiment"] |= {"student": "mine", "arms": ["omniopd"]}
        values["prepare"] = {"task": "prompts", "seed": 0, "file": "my.jsonl", "train": 32}
        mine = {"kind": "hub", "name": str(tmp_path / "student")}
        mine = {"init": mine, "steps": 0, "batch_size": 1, "lr": 1.0e-5}
        values["pretrain"] = {"per_seed": False, "models": {"mine": mine}}
        values["teach"] |= {"teacher": f"{teacher.url}/v1#stub-1", "continuation": "prefill"}
        values["teach"] |= {"samples": 2}
        values["rollout"] |= {"prompts_per_round": 8, "max_new_tokens": 16}
        values["forks"] |= {"chunk_tokens": 4}
        values["score"] |= {"allow_flat": True}
        values["evaluate"]["agreement"] = {"of": ["answers", "forks"], "samples": 3}
        values["evaluate"]["judge"] = {"teacher": f"{teacher.url}/v1#stub-1", "pairs": 2}
        values["train"] |= {"lr": 1.0e-2}  # so that it writes something else
        values["runtime"] |= {"threads": 1}
        yaml.dump(values, file)
        said = type_("omniopd", "plan")
        assert "no checker: evaluated by how far the teacher agrees and what at-127-0-0-1" in said
        said = type_("omniopd", "repro")
        assert len(teacher.answers) > 0
    report = tmp_path / "my/data/report"
    assert "no checker" in (report / "results.md").read_text()
    assert [row["round"] for row in json.loads((report / "agreement.json").read_text())] == [1, 2]
    assert "data/report/index.html" in said
    _held_out(tmp_path / "my", said)
    _judged(tmp_path / "my")
    assert (report / "index.html").stat().st_size > 10_000
    type_("omniopd", "push", "omniopd", "--to", "hub:me/mine")
    pushed = type_.hub.repos["model", "me/mine"]["files"]
    trained = {p.read_bytes() for p in (tmp_path / "my/data/train").rglob("model.safetensors")}
    assert pushed["model.safetensors"] in trained
    assert pushed["model.safetensors"] != (tmp_path / "student/model.safetensors").read_bytes()
    files = [p for p in (tmp_path / "my").rglob("*") if p.is_file()]
    assert not [
        p for p in files if KEY.encode() in p.read_bytes() or TOKEN.encode() in p.read_bytes()
    ]
