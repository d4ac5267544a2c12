"""What a worker refuses, and whose result the head takes. Without Ray."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import machines
from pipeline.core.errors import UserError
from pipeline.plan import expand, experiment
from pipeline.runner.workers import cluster, join, objects, record
from pipeline.runner.workers.task import Desk
from tests.project import MINIATURE


@pytest.fixture(scope="module")
def said() -> bytes:
    plan = expand.expand(experiment.load(MINIATURE))
    plan["cells"] = {k: v for k, v in plan["cells"].items() if k in ("prepare", "score")}
    return record.made(plan)


def test_equal_code_is_taken(said: bytes) -> None:
    assert record.compare(said) == len(json.loads(said)) > 1


def test_other_code_is_refused_by_name(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = json.loads(said)
    name, lines = theirs[0]["name"], theirs[0]["lock"].splitlines()
    symbol = lines[1].rpartition(" ")[0]
    lines[1] = f"{symbol} {'0' * 16}"
    theirs[0]["lock"] = "\n".join(lines) + "\n"
    with pytest.raises(UserError, match=r"the code of 1 of \d+ variants is other") as error:
        record.compare(json.dumps(theirs).encode())
    assert name in str(error.value)
    assert symbol in str(error.value)


def test_a_holder_that_was_replaced_has_no_say() -> None:
    desk = Desk()
    first, second = desk.claim("a", 1, "one", "n1"), desk.claim("a", 1, "two", "n2")
    assert not desk.holds("a", first)
    assert desk.holds("a", second)
    desk.taken([])
    desk.say("a", first, "stale")
    desk.say("a", second, "fresh")
    assert desk.taken(["a", "b"]) == ([("a", "fresh")], {"a": "n2"})
    assert desk.taken([]) == ([], {})


def test_an_order_that_was_given_up_is_nobodys() -> None:
    desk = Desk()
    first = desk.claim("a", 1, "one", "n1")
    desk.give_up("a", 1)
    assert not desk.holds("a", first)
    assert desk.claim("a", 1, "one again", "n1") == 0
    assert desk.holds("a", desk.claim("a", 2, "two", "n2"))


@pytest.mark.parametrize("on", ["rays", "ray:", "ray:host", "slurm", ""])
def test_another_place_to_run_is_refused(on: str) -> None:
    with pytest.raises(UserError, match="wanted local, ray, or"):
        machines.checked(on, machines.HEAD)


@pytest.mark.parametrize("address", ["host", "host:", ":6379", "host:0", "host:70000"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(UserError, match="wanted HOST:PORT"):
        cluster.parsed(address)


def test_a_worker_in_a_folder_that_dvc_cannot_open_takes_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"found no \.dvc, wanted a project's folder"):
        join.work(machines.HEAD, 0, "cpu", 1, "127.0.0.1")
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(UserError, match=r"wanted a project, and DVC says .* is not a git repo"):
        join.work(machines.HEAD, 0, "cpu", 1, "127.0.0.1")


@pytest.fixture
def repos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file and a folder that one repository made and offered, and another without them."""
    from dvc.repo import Repo

    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        repo = Repo.init(no_scm=True)
        with repo.config.edit() as config:
            config["remote"]["all"] = {"url": str(tmp_path / "remote")}
            config["core"]["remote"] = "all"
        found.append(Repo())
    monkeypatch.chdir(tmp_path / "one")
    (tmp_path / "one" / "file").write_text("a file")
    (tmp_path / "one" / "folder").mkdir()
    (tmp_path / "one" / "folder" / "part").write_text("a part")
    made = objects.stage(found[0], "true", ["file", "folder"])
    for out in made.outs:
        out.save()
        out.commit()
    from dvc.stage.serialize import to_single_stage_lockfile

    entries = [dict(one) for one in to_single_stage_lockfile(made)["outs"]]
    objects.offer(found[0], entries)
    monkeypatch.chdir(tmp_path / "two")
    return found[1], entries, tmp_path


def test_files_come_by_their_hashes(repos: Any) -> None:
    repo, entries, folder = repos
    objects.bring(repo, entries)
    assert (folder / "two" / "file").read_text() == "a file"
    assert (folder / "two" / "folder" / "part").read_text() == "a part"


def rot(path: Path) -> None:
    """As bits flip: its mode stays, by which DVC takes it for what it was."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_text("rotten")
    path.chmod(mode)


def test_what_rotted_in_a_cache_comes_from_the_remote(repos: Any) -> None:
    repo, entries, folder = repos
    objects.bring(repo, entries)
    place = objects.cache(repo) / entries[0]["md5"][:2] / entries[0]["md5"][2:]
    for path in (place, folder / "two" / "file"):
        rot(path)
    objects.bring(repo, entries)
    assert (folder / "two" / "file").read_text() == "a file"


def test_what_rotted_in_the_remote_is_refused(repos: Any) -> None:
    repo, entries, folder = repos
    path = next((folder / "remote").glob(f"files/md5/{entries[0]['md5'][:2]}/*"))
    rot(path)
    with pytest.raises(UserError, match=r"file: found other content than MD5 .* the remote has it"):
        objects.bring(repo, entries)


def test_a_remote_that_is_away_for_a_while_is_waited_for(repos: Any) -> None:
    repo, entries, folder = repos
    remote, aside = folder / "remote", folder / "aside"
    for work in (objects.bring, objects.offer):
        remote.rename(aside)
        remote.write_text("no folder")  # else DVC makes a new one
        back = threading.Timer(0.7, lambda: (remote.unlink(), aside.rename(remote)))
        back.start()
        work(repo, entries)
        back.join()
        shutil.rmtree(remote) if work is objects.bring else None
        remote.mkdir(exist_ok=True)
    assert len(list((remote / "files" / "md5").glob("*/*"))) == 3


def test_who_ends_the_run_waits_for_no_remote(repos: Any) -> None:
    repo, entries, folder = repos
    shutil.rmtree(folder / "remote")
    over = threading.Event()
    over.set()
    with pytest.raises(objects.Away, match="remote"):
        objects.bring(repo, entries, over)


def test_without_a_remote_the_cache_has_to_be_shared(repos: Any) -> None:
    repo, entries, _ = repos
    del repo.config["core"]["remote"]
    with pytest.raises(UserError, match="Set `dvc remote add -d`, or `dvc cache dir`"):
        objects.bring(repo, entries)
