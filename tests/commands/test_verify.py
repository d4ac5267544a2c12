"""`omniopd verify`: damage in cache, workspace, remote, store and .resume/ is found, repaired."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.commands import verify
from pipeline.core import dvc_objects
from pipeline.judgments.store import Store
from pipeline.stage.resume import _checksum
from tests.judgments.test_damaged_store import BEFORE, KEY, edit

TABLE, WEIGHTS = Path("data/table.bin"), Path("data/model/checkpoint/weights.bin")
DAG = """
stages:
  table@c1:
    cmd: mkdir -p data && printf '%05000d' 7 > data/table.bin
    outs: [data/table.bin]
  train@c2:
    cmd: >-
      mkdir -p data/model/checkpoint/code && cp data/table.bin data/model/checkpoint/weights.bin
      && echo '{}' > data/model/checkpoint/config.json
      && echo 1 > data/model/checkpoint/code/a.py && echo 2 > data/model/checkpoint/code-b
    deps: [data/table.bin]
    outs: [data/model/checkpoint]
"""


def dvc(*words, folder="."):
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "made"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(DAG.replace("@", "-"))
    dvc("init", "-q", "--no-scm", folder=folder)
    dvc("remote", "add", "-q", "-d", "there", "../there", folder=folder)
    dvc("repro", "-q", folder=folder)
    dvc("push", "-q", folder=folder)
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "made", symlinks=True)
    shutil.copytree(made.parent / "there", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "made")
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{tmp_path / 'judgments.sqlite'}")
    return tmp_path / "made"


def flip(path, bit=80):
    """As a disk does: the file's times and size stay."""
    status = path.stat()
    mode = status.st_mode
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def of(path):
    """The object that dvc.lock names for a file, or for a folder's listing."""
    cache = dvc_objects.cache()
    for file, oid, _ in dvc_objects.files(cache, dvc_objects.outs()):
        if file == str(path):
            return dvc_objects.place(cache, oid)
    return dvc_objects.place(cache, dvc_objects.outs()[str(path)].oid)


def test_what_dvc_lock_and_the_cache_hold_is_read_as_dvc_reads_it(project):
    assert {path: out.cell for path, out in dvc_objects.outs().items()} == {
        "data/table.bin": "table-c1",
        "data/model/checkpoint": "train-c2",
    }
    folder = Path("data/model/checkpoint")
    assert dvc_objects.listed(folder) == of(folder).read_bytes()
    assert dvc_objects.md5(TABLE) == dvc_objects.outs()["data/table.bin"].oid


def test_a_sound_project_is_clean_and_every_file_was_read(project):
    found = verify.verify(repair=False, remote=True)
    assert found.notes == []
    # the table's object is the weights', too: 4 files and a listing; 5 files; the remote's 5
    assert found.files == 15


@pytest.mark.parametrize("what", ["cache", "workspace", "remote"])
def test_a_flipped_bit_is_found_wherever_it_is_and_named(project, what):
    config = Path("data/model/checkpoint/config.json")
    path = {"cache": of(config), "workspace": config}.get(what)
    if path is None:
        path = dvc_objects.place(project.parent / "there/files/md5", dvc_objects.md5(config))
    flip(path, 1)
    found = verify.verify(repair=False, remote=True)
    assert found.left == len(found.notes) == 1
    assert str(path) in found.notes[0]
    assert found.cells == set()  # a good copy is there
    assert verify.verify(repair=False, remote=False).left == (what != "remote")


def test_repair_restores_an_object_from_the_workspace_and_a_file_from_the_cache(project):
    flip(of(TABLE))
    flip(WEIGHTS)
    found = verify.verify(repair=True, remote=False)
    assert (found.left, len(found.repaired), found.cells) == (0, 2, set())
    assert verify.verify(repair=False, remote=False).notes == []
    assert not os.access(of(TABLE), os.W_OK) or os.geteuid() == 0
    assert of(TABLE).stat().st_mode & 0o222 == 0
    assert WEIGHTS.read_bytes() == TABLE.read_bytes()


def test_repair_restores_an_object_from_the_remote(project):
    shutil.rmtree("data")
    flip(of(TABLE))
    found = verify.verify(repair=True, remote=False)
    assert "the remote" in found.repaired[0]
    dvc("checkout", "-q")
    assert TABLE.read_bytes() == b"7".rjust(5000, b"0")


def test_a_folders_listing_is_made_anew_from_the_folder(project):
    shutil.rmtree("../there")
    flip(of(Path("data/model/checkpoint")))
    found = verify.verify(repair=True, remote=False)
    assert (found.left, found.cells) == (0, set())
    assert verify.verify(repair=False, remote=False).notes == []


def test_what_has_no_good_copy_is_removed_and_its_cell_runs_again(project):
    shutil.rmtree("../there")
    config = Path("data/model/checkpoint/config.json")
    flip(of(config), 1)
    config.unlink()
    found = verify.verify(repair=False, remote=False)
    assert (found.left, found.cells) == (1, {"train-c2"})
    found = verify.verify(repair=True, remote=False)
    assert (found.left, found.cells) == (0, {"train-c2"})
    assert "Running stage 'train-c2'" in dvc("repro")
    assert config.read_text() == "{}\n"
    assert verify.verify(repair=False, remote=False).notes == []


def test_outs_of_a_run_that_dvc_lock_does_not_have_yet_are_no_damage(project):
    TABLE.unlink()
    TABLE.write_bytes(b"newer")
    assert verify.verify(repair=False, remote=False).left == 1
    newer = dvc_objects.place(dvc_objects.cache(), dvc_objects.md5(TABLE))
    newer.parent.mkdir(exist_ok=True)
    shutil.copy(TABLE, newer)
    assert verify.verify(repair=True, remote=False).notes == []
    assert TABLE.read_bytes() == b"newer"


def test_the_store_and_what_killed_stages_left_are_looked_at(project):
    from safetensors.torch import save_file

    url = os.environ["JUDGMENTS_URL"]
    with Store(url) as store:
        store.add(BEFORE)
    edit(url, "another answer")
    kept = Path(".resume/train-c2/state.safetensors")
    kept.parent.mkdir(parents=True)
    tensors = {"a": torch.arange(9)}
    values = {"inputs": "i", "values": "1", "seconds": "1.0", "checksum": _checksum(tensors, "1")}
    save_file(tensors, kept, values)
    assert [KEY[:12] in note for note in verify.verify(False, False).notes] == [True]
    flip(kept, 8 * (kept.stat().st_size - 3))
    found = verify.verify(repair=True, remote=False)
    assert found.left == 1  # what has to be bought again stays until it is dropped
    assert [str(kept) in note for note in found.notes] == [False, True]
    assert not kept.exists()


def test_it_is_no_ten_times_slower_than_md5sum(tmp_path):
    paths = [tmp_path / str(i) for i in range(8)]
    for path in paths:
        path.write_bytes(random.Random(path.name).randbytes(1 << 23))
    start = time.perf_counter()
    subprocess.run(["md5sum", *paths], check=True, stdout=subprocess.DEVNULL)
    theirs = time.perf_counter() - start
    start = time.perf_counter()
    verify.hashed(paths, verify.Found(), "files")
    assert time.perf_counter() - start < 10 * theirs
