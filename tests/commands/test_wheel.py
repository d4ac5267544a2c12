"""The package from a wheel, in an environment of its own, in a folder without any of our code."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.project import MINIATURE, ROOT, ran

DVC = "#!{python}\nimport sys\nfrom dvc.cli import main\nsys.exit(main())\n"
SHADOWS = ("stages/__init__.py", "pipeline/__init__.py", "data/__init__.py", "dvc.py", "torch.py")
METRIC = "def measure(pairs):\n    return [float(p.text[-1:] == p.other[-1:]) for p in pairs]\n"


def built(folder, source=ROOT):
    """A wheel of the files that git has, or of a folder."""
    code = folder / "code"
    listed = [
        "git",
        "ls-files",
        "-z",
        "pipeline",
        "stages",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]
    names = subprocess.run(listed, cwd=source, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (source / name).is_file():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, code / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(code),
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel, {name for name in names.split("\0") if name.startswith(("pipeline/", "stages/"))}


class Fresh:
    """An environment with a wheel in it, which finds other packages where this one has them."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        venv.create(folder / "env", with_pip=True)
        self.bin = folder / "env/bin"
        site = next((folder / "env/lib").glob("python*/site-packages"))
        (site / "shared.pth").write_text(self._packages(), encoding="utf-8")
        (self.bin / "dvc").write_text(DVC.format(python=self.bin / "python"))
        (self.bin / "dvc").chmod(0o755)
        self.install(wheel)

    def _packages(self) -> str:
        own = Path(sysconfig.get_path("purelib"))
        return "".join(f"{path}\n" for path in sys.path if Path(path).name == own.name)

    def install(self, wheel: Path) -> None:
        command = ("pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel))
        self.run(self.folder, *command)

    def run(self, folder: Path, *command: str, check: bool = True):
        left_out = ("PYTHONPATH", "OMNIOPD_FORKSERVER")
        environment = {n: v for n, v in os.environ.items() if n not in left_out}
        environment |= {
            "PATH": f"{self.bin}{os.pathsep}{environment['PATH']}",
            "JUDGMENTS_URL": f"sqlite:///{self.folder / 'judgments.sqlite'}",
            "GIT_CEILING_DIRECTORIES": str(self.folder),
        }
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500
        )
        if check and done.returncode:
            raise AssertionError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
        return done


@pytest.mark.slow
def test_a_project_lives_on_the_wheel_alone(tmp_path):
    wheel, names = built(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        inside = {x for x in archive.namelist() if ".dist-info/" not in x}
    assert inside == names  # templates, profiles and scripts, too
    fresh = Fresh(tmp_path, wheel)
    fresh.run(tmp_path, "omniopd", "init", "mine")
    folder = tmp_path / "mine"
    where = fresh.run(
        tmp_path, "python", "-P", "-c", "import stages; print(stages.__file__)"
    ).stdout
    assert Path(where.strip()).is_relative_to(tmp_path / "env")

    # folders and files of the user's shadow nothing
    for name in SHADOWS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit('shadowed')\n")
    shutil.copy(MINIATURE, folder / "params.yaml")
    done = fresh.run(folder, "omniopd", "repro").stdout
    assert len(ran(done)) == 18
    rows = json.loads((folder / "data/report/results.json").read_text())
    assert {"omniopd", "shuffled-scores", "base"} <= {row["arm"] for row in rows}
    assert (folder / "data/report/index.html").stat().st_size > 10_000
    assert ran(fresh.run(folder, "dvc", "repro").stdout) == []
    assert ran(fresh.run(folder, "omniopd", "run").stdout) == []
    assert "nothing changed since it ran" in fresh.run(folder, "omniopd", "why", "omniopd").stdout
    assert "nothing to accept" in fresh.run(folder, "omniopd", "verify-code").stdout
    assert json.loads(fresh.run(folder, "omniopd", "estimate", "--json").stdout)["total"]

    # a metric of one's own
    (folder / "extensions/ending.py").write_text(METRIC)
    text = (folder / "params.yaml").read_text()
    assert text.count("metric: edit") == 1
    (folder / "params.yaml").write_text(text.replace("metric: edit", "metric: extensions.ending"))
    again = {x.partition("@")[0] for x in ran(fresh.run(folder, "omniopd", "repro").stdout)}
    assert again == {"plan", "score", "prior", "train", "evaluate", "report"}
    assert "\nmeasure " in (folder / "code/score-extensions-ending.lock").read_text()
    assert "extensions.ending" in (folder / "data/report/results.md").read_text()
    _upgraded(fresh, folder, tmp_path / "code")


def _upgraded(fresh: Fresh, folder: Path, code: Path) -> None:
    """A new version of the package: a comment reruns nothing, a sign what it changes."""
    objective = code / "pipeline/method/objectives/omniopd.py"
    for number, (old, new) in enumerate(
        (("def terms(", "# a comment\ndef terms("), ("Terms(nll(", "Terms(-nll("))
    ):
        assert objective.read_text().count(old) == 1
        objective.write_text(objective.read_text().replace(old, new))
        shutil.rmtree(code / "build", ignore_errors=True)
        place = fresh.folder / f"wheel{number}"
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w"]
        subprocess.run([*command, str(place), str(code)], check=True)
        fresh.install(next(place.glob("*.whl")))
        if number == 0:
            said = fresh.run(folder, "omniopd", "repro").stdout
            assert (ran(said), "again" in said) == ([], False)
    lock = next(path for path in (folder / "dag/omniopd/seed-0").glob("dvc.yaml"))
    (stage,) = [x for x in lock.read_text().split() if x.startswith("train-c") and x[-1] == ":"]
    refused = fresh.run(folder, "omniopd", "stage", "train", "--cell", stage[6:-1], check=False)
    assert refused.returncode == 2
    assert "terms changed since" in refused.stderr
    assert "Run `omniopd plan`" in refused.stderr
    said = fresh.run(folder, "omniopd", "plan").stdout
    assert (
        "train-omniopd: 2 cells rerun, for code: terms (pipeline/method/objectives/omniopd.py)"
        in said
    )
    again = {x.partition("@")[0] for x in ran(fresh.run(folder, "dvc", "repro").stdout)}
    assert again == {"plan", "train", "evaluate", "report"}
