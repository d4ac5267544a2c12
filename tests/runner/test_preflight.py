"""What a head whose cells are made on workers has to have itself, and what it is told at once."""

import pytest

from pipeline.commands import app, machines
from pipeline.core import yaml_files
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner import preflight
from pipeline.runner.dag import plan_files
from pipeline.runner.workers import cluster
from tests.hostile import project


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment as it was, also after `checked` has set ELSEWHERE."""
    monkeypatch.setenv(preflight.ELSEWHERE, "")
    monkeypatch.delenv(preflight.ELSEWHERE)


def wanting(old: str, new: str) -> experiment.Experiment:
    text = project.replaced(old, new)
    return experiment.of(yaml_files.parsed(text, "params.yaml"), "params.yaml")


def test_a_head_needs_neither_the_device_nor_the_engine_of_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "PROBE", "raise SystemExit('no such device')")
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    for file in (wanting("device: cpu", "device: cuda"), wanting("engine: hf", "engine: vllm")):
        plan = expand.expand(file)
        monkeypatch.delenv(preflight.ELSEWHERE, raising=False)
        with pytest.raises(UserError, match=r"no such device|found no package vllm"):
            preflight.check(file, plan, set, False)
        monkeypatch.setenv(preflight.ELSEWHERE, "1")
        preflight.check(file, plan, set, False)


@pytest.mark.parametrize(
    ("on", "listen", "said"),
    [
        ("ray", machines.HEAD, "found no package ray"),
        ("ray:host:1", machines.HEAD, "found no package ray"),
        ("ray", "host", "wanted HOST:PORT"),
        ("slurm", machines.HEAD, "wanted local, ray, or"),
    ],
)
def test_what_is_wrong_of_workers_is_said_before_anything_is_planned(
    on: str, listen: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(**_: bool) -> None:
        raise AssertionError

    monkeypatch.setattr(plan_files, "write", planned)
    if "ray" in said:
        monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(cluster, "package", lambda: None)
    with pytest.raises(UserError, match=said):
        app.run(1, on, listen)
