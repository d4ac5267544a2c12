"""What is restored from DVC's cache is read through once, by the first that uses it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import dvc_objects, verified
from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.stage import run_records
from tests.commands.test_verify import TABLE, dvc, flip, made, of, project  # noqa: F401
from tests.project import ROOT

CHECKPOINT = Path("data/model/checkpoint")
READER = """
  read-c3:
    cmd: python -c "from pipeline.core import verified; verified.once('data/table.bin')"
    deps: [data/table.bin]
"""


@pytest.fixture
def read(project, monkeypatch):  # noqa: F811
    """Files that were read through, in order; as in a stage."""
    paths = []

    def md5(path):
        paths.append(Path(path))
        return plain(path)

    plain = dvc_objects.md5
    monkeypatch.setattr(dvc_objects, "md5", md5)
    monkeypatch.setenv(verified.STAGE, "train-c2")
    monkeypatch.setattr(verified, "_seen", {})
    return paths


def test_a_file_is_read_through_once_until_it_is_restored_again(read, monkeypatch):
    for _ in range(2):
        verified.once(TABLE)
    assert read == [TABLE]
    monkeypatch.setattr(verified, "_seen", {})  # another process knows it, too
    verified.once(TABLE.absolute())
    assert read == [TABLE]
    TABLE.unlink()
    dvc("checkout", "-q")
    verified.once(TABLE)
    assert read == [TABLE, TABLE]


@pytest.mark.parametrize("name", ["weights.bin", "code/a.py"])
def test_a_flipped_bit_in_a_restored_folder_is_refused(read, name):
    flip(of(CHECKPOINT / name), 1)
    shutil.rmtree(CHECKPOINT)
    dvc("checkout", "-q")
    verified.once(CHECKPOINT / "config.json")  # a part of it that is whole
    for path in (CHECKPOINT, CHECKPOINT / name):
        with pytest.raises(UserError, match=r"train-c2 wrote.*omniopd verify --repair"):
            verified.once(path)


def test_by_hand_a_stage_takes_what_is_there(read, monkeypatch):
    flip(TABLE)
    monkeypatch.delenv(verified.STAGE)
    verified.once(TABLE)
    with verified.reading(), pytest.raises(UserError, match=r"data/table\.bin"):
        verified.once(TABLE)
    verified.once(TABLE)


def test_what_a_run_made_that_dvc_lock_does_not_have_yet_is_taken(read):
    TABLE.unlink()
    TABLE.write_bytes(b"newer")
    newer = dvc_objects.place(dvc_objects.cache(), dvc_objects.md5(TABLE))
    newer.parent.mkdir(exist_ok=True)
    shutil.copy(TABLE, newer)
    verified.once(TABLE)


def test_without_a_place_for_notes_files_are_read(read, monkeypatch):
    monkeypatch.setattr(verified, "NOTES", Path("missing/folder/notes"))
    verified.once(TABLE)
    assert read == [TABLE]


def test_a_stage_of_plain_dvc_repro_refuses_what_its_cache_restored_damaged(project):  # noqa: F811
    with Path("dvc.yaml").open("a") as file:
        file.write(READER)
    flip(of(TABLE))
    TABLE.unlink()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": _path()}
    command = [sys.executable, "-m", "dvc", "repro", "read-c3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "omniopd verify --repair" in done.stdout + done.stderr


def _path():
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_tables_checkpoints_and_counts_are_looked_at_where_they_are_opened(read, monkeypatch):
    from pipeline.engines import checkpoints
    from pipeline.training import optimizer

    asked = []
    monkeypatch.setattr(verified, "once", lambda path: asked.append(str(path)))
    (CHECKPOINT / "x.safetensors").write_bytes(b"")
    for name in checkpoints.NEEDED:
        (CHECKPOINT / name).write_text("{}")
    Path("data/train/c2").mkdir(parents=True)
    Path("data/train/c2/run.json").write_text("{}")
    tables.write(schemas.FORKS.empty_table(), "data/forks.parquet", schemas.FORKS)
    tables.read("data/forks.parquet", schemas.FORKS)
    checkpoints.check(CHECKPOINT)
    run_records.run_json("train", "c2")
    with pytest.raises(UserError):
        optimizer.Optimizer.load(None, Path("data/moments"))
    wanted = ["data/forks.parquet", str(CHECKPOINT), "data/train/c2/run.json", "data/moments"]
    assert asked == wanted


def test_the_cache_is_where_whoever_started_the_stage_says(read, monkeypatch, tmp_path):
    shutil.move(dvc_objects.cache(), tmp_path / "elsewhere")
    monkeypatch.setenv(dvc_objects.CACHE, str(tmp_path / "elsewhere"))
    flip(CHECKPOINT / "config.json", 1)
    with pytest.raises(UserError, match=r"config\.json"):
        verified.once(CHECKPOINT)


def test_a_folder_whose_listing_is_damaged_is_read_whole(read):
    flip(of(CHECKPOINT))
    verified.once(CHECKPOINT)
    verified._seen.clear()
    flip(CHECKPOINT / "config.json", 1)
    with pytest.raises(UserError, match=r"checkpoint: found content"):
        verified.once(CHECKPOINT / "code/a.py")
