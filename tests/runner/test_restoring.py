"""Deleted outs come back by one `dvc checkout`; weights that were dropped stay away."""

import subprocess
from pathlib import Path

import pytest

from pipeline.runner import restoring, retention

LOCK = """schema: '2.0'
stages:
  train-c00000001:
    cmd: x
    outs:
    - path: data/train/c00000001/checkpoint
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
    - path: data/train/c00000001/metrics.jsonl
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
"""
NAMES = ["checkpoint", "metrics.jsonl"]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The arguments that DVC was called with; it restores nothing."""
    found = []

    def run(command, **_):
        found.append(command)
        return subprocess.CompletedProcess(command, 1, "", "it cannot")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    lock = Path("dag/omniopd/seed-0/dvc.lock")
    lock.parent.mkdir(parents=True)
    lock.write_text(LOCK)
    return found


def put(name):
    path = Path("data/train/c00000001", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def test_nothing_is_asked_where_nothing_is_gone(asked):
    for name in NAMES:
        put(name)
    restoring.restore(retention.ALL, ["dvc"], {})
    assert asked == []


def test_everything_comes_back_at_once(asked, caplog):
    put("checkpoint")
    restoring.restore(retention.ALL, ["dvc"], {})
    assert asked == [["dvc", "--quiet", "--allow-missing"]]
    assert "dvc checkout: it cannot" in caplog.text  # who reproduces makes it again


def test_what_was_dropped_is_not_asked_for(asked):
    keep = retention.Keep("last", {"train@c00000001": frozenset()})
    restoring.restore(keep, ["dvc"], {})
    path = "data/train/c00000001/metrics.jsonl"
    assert asked == [["dvc", "--quiet", "--allow-missing", path]]
    put("metrics.jsonl")
    restoring.restore(keep, ["dvc"], {})
    assert len(asked) == 1
