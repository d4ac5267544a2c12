"""sha256 of a large file: read once for as long as it stays what it is."""

import hashlib
import os

import pytest

from pipeline.core import files


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Files that were read, in a cache of their own where every file is large and settled."""
    found, real = [], files._read
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 0)
    monkeypatch.setattr(files, "SETTLED", 0.0)
    monkeypatch.setattr(files, "_read", lambda path: found.append(path) or real(path))
    return found


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_file_is_read_once_until_it_changes(reads, tmp_path):
    path = tmp_path / "weights"
    path.write_text("abc")
    assert [files.sha256(path) for _ in range(3)] == [sha256("abc")] * 3
    assert reads == [path]
    path.write_text("abd")
    os.utime(path, ns=(1, 1))  # of the same size
    assert files.sha256(path) == sha256("abd")
    other = tmp_path / "other"
    other.write_text("abe")
    os.utime(other, ns=(1, 1))
    other.replace(path)  # of the same size and time
    assert files.sha256(path) == sha256("abe")
    assert reads == [path] * 3


def test_what_was_written_just_now_may_change_within_its_tick_and_is_not_remembered(
    reads, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "SETTLED", 2.0)
    path = tmp_path / "weights"
    path.write_text("abc")
    assert [files.sha256(path) for _ in range(2)] == [sha256("abc")] * 2
    assert reads == [path] * 2
    assert not (tmp_path / "cache").exists()


def test_without_a_place_for_the_cache_files_are_read(reads, tmp_path):
    (tmp_path / "cache").write_text("a file")
    path = tmp_path / "weights"
    path.write_text("abc")
    assert files.sha256(path) == sha256("abc")
    assert reads == [path]
