"""A shared cache, a remote and a store of answers: each tried, then used by a second clone."""

import contextlib
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import zc.lockfile
from dvc_data.hashfile import gc as collecting

from pipeline.commands import entry
from pipeline.commands.sharing import cache_command, share_command
from pipeline.core.errors import UserError
from pipeline.judgments.store import Store, url
from pipeline.runner import dvc_project
from pipeline.runner.dag import lock_files
from pipeline.runner.sharing import answers, busy, clones, limited, links
from tests import team


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A project whose every cell ran, with a cache of its own. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    team.ran(folder)
    return folder


@pytest.fixture
def one(origin, tmp_path, monkeypatch):
    """The first clone; commands act on it."""
    folder = team.copied(origin, tmp_path / "one")
    monkeypatch.chdir(folder)
    return folder


class Pair(NamedTuple):
    """Two clones that share a cache."""

    one: Path
    cache: Path
    two: Path


def paired(origin, place):
    found = Pair(team.copied(origin, place / "one"), place / "cache", place / "two")
    team.clone(found.one, found.two)
    for folder in (found.one, found.two):
        with contextlib.chdir(folder):
            share_command.share(cache=found.cache)
        restored(folder)
    return found


@pytest.fixture(scope="module")
def team_of_two(origin, tmp_path_factory):
    return paired(origin, tmp_path_factory.mktemp("team"))


@pytest.fixture
def pair(team_of_two, monkeypatch):
    """The same two for several tests; each leaves them as they were. Commands act on the first."""
    monkeypatch.chdir(team_of_two.one)
    return team_of_two


@pytest.fixture
def orphan(pair):
    """An object that nobody needs."""
    path = team.place(pair.cache, "ab" + "c" * 30)
    path.parent.mkdir(exist_ok=True)
    path.write_text("nobody's")
    yield path
    path.unlink(missing_ok=True)


def restored(folder):
    """Bring back what dvc.lock names, as `omniopd run` does before it looks at the cells."""
    with contextlib.chdir(folder):
        dvc_project.Project().repo.checkout(force=True)
        links.settle()


def a_file(folder, pattern):
    """A file that a cell wrote, by its path in the project."""
    return min(folder.glob(pattern)).relative_to(folder).as_posix()


def collected(capsys, **options):
    """How many objects a collection removed, or would."""
    capsys.readouterr()
    cache_command.gc(**options)
    return int(capsys.readouterr().out.splitlines()[-1].split(" objects")[0].split()[-1])


def test_a_second_clone_has_every_cell_from_the_shared_cache(pair):
    one, cache, two = pair
    assert team.stale(two) == set()
    assert team.stale(one) == set()
    assert not (two / ".dvc/cache").exists()
    assert "config.local" not in team.git(two, "status", "--porcelain", "--untracked-files=all")
    known = clones.read(cache)
    assert [clone.folder for clone in known] == [str(one), str(two)]
    assert all(clone.hosts == (socket.gethostname(),) for clone in known)


def test_the_group_may_write_all_folders_of_a_shared_cache(pair):
    _, cache, _ = pair
    lock_files.remember(cache / "files/md5", [{"cmd": "x", "deps": [{"path": "code/x.lock"}],
                                              "outs": []}])  # fmt: skip
    folders = [path for path in cache.rglob("*") if path.is_dir()]
    assert any(path.parent.name == "runs" for path in folders)
    for folder in (cache, *folders):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2775, folder


def test_checkpoints_are_links_and_tables_are_not(pair):
    _, cache, two = pair
    if links.REFLINK in links.possible(cache / "files/md5", two / ".dvc"):
        pytest.skip("this disk makes reflinks, which look like copies")
    weights = two / a_file(two, "data/train/*/checkpoint/model.safetensors")
    table = two / a_file(two, "data/rollout/*/rollouts.parquet")
    assert weights.stat().st_nlink > 1
    assert weights.samefile(team.place(cache, team.oid(two, str(weights.relative_to(two)))))
    assert table.stat().st_nlink == 1
    weights.unlink()  # one that was changed by hand stays
    weights.write_text("mine")
    with contextlib.chdir(two):
        links.settle()
    assert weights.read_text() == "mine"
    restored(two)


def test_a_cache_inside_the_project_is_refused(one):
    with pytest.raises(UserError, match="a folder of this project"):
        share_command.share(cache=Path("data/cache"))
    assert not (one / "data/cache").exists()
    assert not (one / ".dvc/config.local").exists()


def test_damage_in_the_old_cache_is_not_carried_into_the_shared_one(one, tmp_path):
    damaged = team.place(one / ".dvc/cache", team.oid(one, a_file(one, "data/score/*/*.parquet")))
    damaged.chmod(0o644)
    damaged.write_text("rotten")
    with pytest.raises(UserError, match=f"1 damaged objects, {damaged} the first"):
        share_command.share(cache=tmp_path / "cache")
    assert not (one / ".dvc/config.local").exists()
    assert damaged.parent.name + damaged.name not in team.objects(tmp_path / "cache")


def test_collecting_keeps_what_branches_tags_and_workspaces_of_all_clones_need(
    origin, tmp_path, monkeypatch, capsys
):
    one, cache, two = paired(origin, tmp_path)
    monkeypatch.chdir(one)
    collected(capsys)  # what only the making of the project put there
    kept = team.objects(cache)
    assert collected(capsys, dry=True) == 0
    # an old state in a branch of the second clone, another in a tag of it
    for kind, ref in (("branch", "old"), ("tag", "older")):
        path = a_file(two, "data/score/*/*.parquet")
        (two / path).unlink()
        (two / path).write_text(kind)
        with contextlib.chdir(two):
            dvc_project.Project().repo.commit(force=True)
        team.commit(two)
        team.git(two, kind, ref)
    team.git(two, "reset", "-q", "--hard", "HEAD~2")
    orphan = team.place(cache, "ab" + "c" * 30)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_text("nobody's")
    before = team.objects(cache)
    assert collected(capsys, dry=True) == 1
    assert team.objects(cache) == before
    assert collected(capsys) == 1
    assert team.objects(cache) == before - {"ab" + "c" * 30}
    assert len(before - kept) >= 1 + 2 * 2  # with each file a listing
    team.git(two, "branch", "-D", "old")
    team.git(two, "tag", "-d", "older")
    assert collected(capsys) == len(before - kept) - 1
    restored(two)
    assert team.stale(one) == team.stale(two) == set()


def test_what_a_link_of_a_clone_leads_to_is_kept(pair, orphan, capsys):
    _, _, two = pair
    (two / "data/kept").symlink_to(orphan)
    collected(capsys)
    assert orphan.is_file()
    (two / "data/kept").unlink()
    collected(capsys)
    assert not orphan.exists()


def test_nothing_is_collected_while_another_clone_runs(pair, orphan):
    _, cache, two = pair
    before = team.objects(cache)
    with (two / busy.FLOW_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 1 on elsewhere")
        file.flush()
        with pytest.raises(UserError, match=f"{two}: found it at work .*process 1 on elsewhere"):
            cache_command.gc()
    (two / busy.FLOW_LOCK).unlink()
    with contextlib.chdir(two):
        other = dvc_project.Project()
    with other.alone(), pytest.raises(UserError, match=f"{two}: found it at work .DVC has its"):
        cache_command.gc()
    with (
        other._claimed("train", other.repo.index.stages[0]),
        pytest.raises(UserError, match=f"process {os.getpid()} has files in use"),
    ):
        cache_command.gc()
    assert team.objects(cache) == before
    cache_command.gc()


def test_every_clone_is_held_still_until_the_last_object_is_removed(pair, orphan, monkeypatch):
    """With `dvc gc --projects` the lock of the other clone is free by then."""
    free = []

    def looking(*arguments, real=collecting.gc, **named):
        for folder in (pair.one, pair.two):
            try:
                zc.lockfile.LockFile(str(folder / ".dvc/tmp/lock")).close()
            except zc.lockfile.LockError:
                continue
            free.append(folder)
        return real(*arguments, **named)

    monkeypatch.setattr(collecting, "gc", looking)
    cache_command.gc()
    assert not orphan.exists()
    assert free == []


def test_a_note_of_a_dead_process_counts_only_where_another_host_could_have_made_it(pair):
    _, cache, two = pair
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    note = {"write": {str(two / "x"): {"pid": dead.pid, "cmd": "dvc repro"}}, "read": {}}
    (two / ".dvc/tmp/rwlock").write_text(json.dumps(note))
    assert not psutil.pid_exists(dead.pid)
    cache_command.gc()
    known = {path: json.loads(path.read_text()) for path in (cache / clones.FOLDER).glob("*.json")}
    path = next(path for path, one in known.items() if one["folder"] == str(two))
    path.write_text(json.dumps({**json.loads(path.read_text()), "hosts": ["elsewhere"]}))
    with pytest.raises(UserError, match=f"process {dead.pid} has files in use"):
        cache_command.gc()
    (two / ".dvc/tmp/rwlock").unlink()
    path.unlink()
    clones.register(cache, two)


def test_a_clone_that_is_gone_stops_a_collection_until_it_is_forgotten(pair, capsys):
    _, cache, two = pair
    two.rename(two.parent / "moved")
    with pytest.raises(UserError, match=f"{two} of .*: not found here"):
        cache_command.gc()
    with pytest.raises(UserError, match="--forget: found"):
        cache_command.gc(forget=[two.parent / "never"])
    collected(capsys, forget=[two])
    with contextlib.chdir(two.parent / "moved"):
        clones.join(cache, Path.cwd())  # as every plan does
    assert [Path(clone.folder).name for clone in clones.read(cache)] == ["moved", "one"]
    clones.forget(cache, str(two.parent / "moved"))
    (two.parent / "moved").rename(two)
    clones.register(cache, two)


def test_a_cache_that_nobody_shares_is_left_to_dvc(one):
    with pytest.raises(UserError, match="no clones written down there"):
        cache_command.gc()


def test_weights_that_another_clone_may_read_are_not_dropped_from_the_cache(pair):
    _, cache, two = pair
    assert dvc_project.Project(shared=True)._dropping.left_in_cache
    cache_command.gc(forget=[two])
    assert not dvc_project.Project(shared=True)._dropping.left_in_cache
    clones.register(cache, two)


@pytest.fixture
def remote(one, tmp_path):
    """A remote that is a folder, which has all that the first clone needs."""
    share_command.share(remote=str(tmp_path / "remote"))
    cache_command.push()
    team.commit(one)
    return tmp_path / "remote"


def test_what_is_damaged_in_the_remote_is_refused_by_name(one, remote, tmp_path):
    paths = [a_file(one, "data/score/*/*.parquet"), a_file(one, "data/train/*/metrics.jsonl")]
    places = [team.place(remote, team.oid(one, path)) for path in paths]
    for at in places:
        at.chmod(0o644)
        at.write_bytes(at.read_bytes()[:-1])
    two = team.clone(one, tmp_path / "two")
    with contextlib.chdir(two), pytest.raises(UserError) as refused:
        cache_command.pull()
    for path in paths:
        assert f"{path} of " in str(refused.value)
    assert "2 objects" in str(refused.value)
    for at in places:
        at.unlink(missing_ok=True)  # DVC itself removes some from a folder that it may write
    with contextlib.chdir(two), pytest.raises(UserError, match=f"{paths[0]} of "):
        cache_command.pull()
    cache_command.push()  # dvc push itself sends no file of a folder whose listing is there
    with contextlib.chdir(two):
        cache_command.pull()
    assert team.stale(two) == set()
    assert "verify = True" in (two / ".dvc/config").read_text()
    # what was tried left nothing there
    assert team.objects(remote) <= team.objects(one / ".dvc/cache")


@pytest.mark.slow
def test_nothing_is_collected_before_the_remote_has_all(one, tmp_path, remote):
    cache = tmp_path / "cache"
    share_command.share(cache=cache)
    path = a_file(one, "data/score/*/*.parquet")
    team.place(remote, team.oid(one, path)).unlink()
    orphan = team.place(cache, "ab" + "c" * 30)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_text("nobody's")
    with pytest.raises(UserError, match=rf"the remote lacks 1 files .*{path} \(new\)"):
        cache_command.gc()
    assert orphan.is_file()
    cache_command.push()
    cache_command.gc()
    assert not orphan.exists()


def test_an_empty_name_of_the_store_is_no_other_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGMENTS_URL", "")
    (tmp_path / "judgments.url").write_text("\n")
    entry._name_store()
    with pytest.raises(UserError, match="JUDGMENTS_URL is not a database URL"):
        Store(url())


@pytest.mark.parametrize(
    "words",
    [
        {"remote": "s3://key:secret@bucket/path"},
        {"remote": "s3://bucket/path", "endpoint": "http://key:secret@127.0.0.1:1"},
        {"remote": "ssh://somebody:secret@127.0.0.1/path"},
        {"remote": "https://127.0.0.1/path"},
        {"remote": "/tmp/x", "endpoint": "http://127.0.0.1:1"},
        {"endpoint": "http://127.0.0.1:1"},
        {"remote": ""},
        {"remote": "data/remote"},
        {"judgments": "postgresql://somebody:secret@127.0.0.1/team"},
        {"judgments": "postgresql://127.0.0.1/team?password=secret"},
        {"judgments": "mysql://127.0.0.1/team"},
    ],
)
def test_what_holds_a_secret_or_cannot_be_shared_is_refused_and_nothing_is_written(one, words):
    before = (one / ".dvc/config").read_text()
    with pytest.raises(UserError) as refused:
        share_command.share(**words)
    assert "secret" not in str(refused.value)
    assert (one / ".dvc/config").read_text() == before
    assert not (one / answers.FILE).exists()


def test_a_secret_in_dvcs_config_and_another_remote_of_that_name_are_refused(one):
    with (one / ".dvc/config").open("a") as file:
        file.write("['remote \"team\"']\nurl = s3://bucket/path\nsecret_access_key = secret\n")
    with pytest.raises(UserError, match=r"remote team: found 's3://bucket/path' in"):
        share_command.share(remote="s3://bucket/another")
    with pytest.raises(UserError, match=r"\.dvc/config: found secret_access_key of remote team"):
        share_command.share(remote="s3://bucket/path")


def test_a_command_that_hangs_is_given_up_with_what_it_started():
    script = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    before = len(psutil.Process().children(recursive=True))
    with pytest.raises(UserError, match=r"the push to remote x: found no end after 0\.5 s"):
        limited.run([sys.executable, "-c", script], 0.5, "the push to remote x")
    assert len(psutil.Process().children(recursive=True)) == before


def test_the_store_is_tried_and_left_empty_and_every_stage_finds_it(one, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGMENTS_URL", raising=False)
    share_command.share(judgments="sqlite:///../answers.sqlite")
    wanted = f"sqlite:///{tmp_path / 'answers.sqlite'}"
    assert (one / "judgments.url").read_text() == f"{wanted}\n"
    with Store(wanted) as store, store.database.reading() as connection:
        for table in store.database.tables - {"omniopd_judgments"}:
            count = connection.exec_driver_sql(f"select count(*) from {table}").scalar()
            assert count == 0, table
    entry._name_store()
    assert url() == wanted
    monkeypatch.setenv("JUDGMENTS_URL", "sqlite:////elsewhere.sqlite")  # goes before it
    entry._name_store()
    assert url() == "sqlite:////elsewhere.sqlite"


def test_a_stage_that_dvc_starts_gets_the_projects_store(tmp_path):
    (tmp_path / "judgments.url").write_text(f"sqlite:///{tmp_path}/of/a/team.sqlite\n")
    environment = {name: value for name, value in os.environ.items() if name != "JUDGMENTS_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.commands.entry", "judgments", "stats"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(entry.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert f"{tmp_path}/of/a/team.sqlite" in done.stdout + done.stderr


def test_sqlite_on_a_network_file_system_is_refused(one, tmp_path, monkeypatch):
    mounted = psutil._ntuples.sdiskpart("host:/x", str(tmp_path), "nfs4", "rw")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [mounted])
    with pytest.raises(UserError, match=r"network file system \(nfs4\)"):
        share_command.share(judgments="sqlite:///answers.sqlite")


@pytest.mark.team
def test_a_store_on_postgres_is_tried_and_left_empty(one, postgres):
    given = postgres()
    assert "written, read back by another connection" in answers.tried(given)
    with Store(given) as store, store.database.reading() as connection:
        for table in store.database.tables - {"omniopd_judgments"}:
            count = connection.exec_driver_sql(f"select count(*) from {table}").scalar()
            assert count == 0, table
