"""People who share: a second one's fresh clone runs no cell and asks no teacher, with a cache on a
disk of both or with a remote that speaks S3; two with different arms at once buy nothing twice.

With root's rights they are two users of one group; else one user in two folders.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests import team
from tests.project import Project, ran

GROUP, FIRST, SECOND = 20_000, 20_001, 20_002
# may read what root has, Python itself; writes as anybody
READS = ("-all,+dac_read_search",) * 3
TWO_USERS = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("setpriv") is not None
BUSY = re.compile("is busy|acquire lock|database is locked|LockError|Traceback")
SECRET = "s3cr3t-of-nobody"


class Person(Project):
    """Somebody's clone, in whose name commands run."""

    def as_user(self, number, home):
        self.number, self.home = number, home
        home.mkdir(exist_ok=True)
        shutil.copy(team.SETTINGS, home / ".gitconfig")
        self.own()
        return self

    def own(self):
        """All files are this user's."""
        if TWO_USERS:
            for folder in (self.home, self.folder):
                words = ["chown", "-R", "-h", f"{self.number}:{GROUP}", str(folder)]
                subprocess.run(words, check=True)

    def words(self, *command):
        if not TWO_USERS:
            return command
        kinds = ("--inh-caps", "--ambient-caps", "--bounding-set")
        caps = (f"{kind}={what}" for kind, what in zip(kinds, READS, strict=True))
        who = ("--reuid", str(self.number), "--regid", str(GROUP), "--clear-groups")
        return ("setpriv", *who, *caps, *command)

    def environment(self, **extra):
        found = super().environment(
            HOME=str(self.home), LOGNAME=f"u{self.number}", XDG_CACHE_HOME=str(self.home / "cache"),
            JUDGMENTS_URL="", **extra,
        )  # fmt: skip
        found.pop("OMNIOPD_FORKSERVER", None)  # of another user
        return found

    def run(self, *command, check=True, **extra):
        return super().run(*self.words(*command), check=check, **extra)

    def start(self, *command):
        return subprocess.Popen(
            self.words(*command), cwd=self.folder, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ran(self):
        """Cells that ran in a flow."""
        done = self.run("omniopd", "run", "--parallel", "2")
        assert not BUSY.search(done.stdout + done.stderr)
        return ran(done.stdout)

    def stats(self):
        return json.loads(self.run("omniopd", "judgments", "stats", "--json").stdout)

    def cloned(self, folder, number):
        found = Person.at(team.clone(self.folder, folder))
        return found.as_user(number, folder.parent / f"home-{number}")


def person(folder, number):
    """A project of the miniature in a commit; nothing ran."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Person(folder)
    (folder / ".dvc" / ".gitignore").write_text(team.IGNORED)
    with (folder / ".gitignore").open("a") as file:
        file.write(".loaded\n")
    team.commit(folder)
    return made.as_user(number, folder.parent / f"home-{number}")


def told(line):
    sys.stdout.write(f"{line}\n")  # `pytest -s` shows it


@contextlib.contextmanager
def open_folder():
    """A folder that every user may enter, as pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="omniopd-team-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place():
    with open_folder() as folder:
        yield folder


def shared_folder(folder):
    folder.mkdir()
    if TWO_USERS:
        os.chown(folder, FIRST, GROUP)
    folder.chmod(0o2775)
    return folder


def damaged(cache):
    """Objects of a cache that are not what their names say."""
    found = {path: path.read_bytes() for path in (cache / "files/md5").glob("??/*")}
    assert found
    return [
        path
        for path, data in found.items()
        if not (path.parent.name + path.name).startswith(hashlib.md5(data).hexdigest())
    ]


@pytest.fixture(scope="module")
def first():
    """The first person's experiment, run with a cache and a store that others may use."""
    with open_folder() as base:
        yield _first(base)


def _first(base):
    found = person(base / "one", FIRST)
    shared_folder(base / "cache")
    shared_folder(base / "answers")
    found.run("omniopd", "share", "--cache", str(base / "cache"))
    store = f"sqlite:///{base / 'answers' / 'answers.sqlite'}"
    found.run("omniopd", "share", "--judgments", store)
    assert any("teach-" in cell or cell.startswith("teach") for cell in found.ran())
    team.commit(found.folder)
    found.own()
    return found


@pytest.mark.slow
def test_a_second_user_with_the_shared_cache_runs_no_cell_and_asks_nobody(first):
    two = first.cloned(first.folder.parent / "two", SECOND)
    two.run("omniopd", "share", "--cache", str(first.folder.parent / "cache"))
    before = first.stats()
    start = time.perf_counter()
    assert two.ran() == []
    told(f"restored in {time.perf_counter() - start:.1f} s")
    assert two.run("dvc", "status").stdout.strip().endswith("up to date.")
    for name in ("results.json", "results.md"):
        both = [one.folder / "data/report" / name for one in (first, two)]
        assert both[0].read_bytes() == both[1].read_bytes()
    # another metric asks nothing, and its answers come from the same table
    two.edit(score__metric="exact")
    stages = Counter(re.split("[-@]", cell)[0] for cell in two.ran())
    assert stages["score"] == 2
    assert not {"prepare", "pretrain", "rollout", "forks", "teach"} & set(stages)
    # and the first one, who is let have it, runs nothing
    first.edit(score__metric="exact")
    assert first.ran() == []
    first.revert()
    assert first.ran() == []
    after = first.stats()
    assert (after["answers"], after["bought"]) == (before["answers"], before["bought"])
    assert damaged(first.folder.parent / "cache") == []


def answered(process, seconds=900.0):
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    assert not BUSY.search(said), said
    return ran(said)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.team)])
def test_two_at_once_with_different_arms_buy_nothing_twice_and_see_no_lock(
    database, place, request
):
    both = [person(place / name, user) for name, user in (("one", FIRST), ("two", SECOND))]
    cache, answers = shared_folder(place / "cache"), shared_folder(place / "answers")
    url = f"sqlite:///{answers / 'answers.sqlite'}"
    if database == "postgres":
        url = request.getfixturevalue("postgres")()
    for one, arms in zip(both, (["omniopd", "sft"], ["omniopd", "wrong-teacher"]), strict=True):
        one.edit(experiment__arms=arms)
        one.run("omniopd", "share", "--cache", str(cache), "--judgments", url)
    cells = [answered(p) for p in [one.start("omniopd", "run", "--parallel", "2") for one in both]]
    same = set(cells[0]) & set(cells[1])
    assert any(cell.startswith("teach") for cell in {*cells[0]} | {*cells[1]})
    found = both[0].stats()
    assert found["bought"] == found["answers"] > 0
    told(f"{database}: {found['answers']} answers, {len(same)} cells made by both at once")
    assert damaged(cache) == []
    for one in both:
        assert one.ran() == []


@pytest.fixture
def s3():
    """A store that speaks S3, on loopback, with a bucket; the URL of its endpoint."""
    pytest.importorskip("dvc_s3")
    pytest.importorskip("moto.server")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key=SECRET,
        )  # fmt: skip
        client.create_bucket(Bucket="team")
        client.endpoint = endpoint
        client.server = server
        yield client
    finally:
        server.kill()
        server.wait()


KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


def keys(client):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="team")
    return {one["Key"] for page in pages for one in page.get("Contents", ())}


@pytest.mark.slow
def test_a_second_user_with_s3_runs_no_cell_and_damage_there_is_refused_by_name(
    s3, place, monkeypatch
):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    folder = place / "one"
    team.ran(folder)
    one = Person.at(folder).as_user(FIRST, place / "home-1")
    words = ("omniopd", "share", "--remote", "s3://team/study", "--endpoint", s3.endpoint)
    refused = one.run(*words[:3], "s3://elsewhere/study", *words[4:], check=False)
    assert refused.returncode == 2
    assert SECRET not in refused.stdout + refused.stderr
    one.run(*words)
    assert keys(s3) == set()  # what was tried is gone
    one.run("omniopd", "cache", "push")
    team.commit(folder)
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        assert SECRET.encode() not in path.read_bytes(), path
    # a remote that stands still is given up
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text() + "# more\n")
    os.kill(s3.server.pid, 19)
    start = time.perf_counter()
    late = one.run("omniopd", "cache", "push", "--seconds", "5", check=False)
    assert late.returncode == 2
    assert "found no end after 5 s" in late.stderr
    assert time.perf_counter() - start < 25
    os.kill(s3.server.pid, 18)
    # the second user
    two = Person.at(team.clone(folder, place / "two")).as_user(SECOND, place / "home-2")
    two.run("omniopd", "cache", "pull")
    assert team.stale(two.folder) == set()
    # and a third, when a table and a checkpoint were changed there
    paths = [next(iter(sorted(folder.glob(x)))).relative_to(folder).as_posix() for x in
             ("data/score/*/*.parquet", "data/train/*/checkpoint/model.safetensors")]  # fmt: skip
    oids = [team.oid(folder, path) for path in paths]
    for oid in oids:
        key = f"study/files/md5/{oid[:2]}/{oid[2:]}"
        body = s3.get_object(Bucket="team", Key=key)["Body"].read()
        s3.put_object(Bucket="team", Key=key, Body=body[:-2] + b"?\n")
    three = Person.at(team.clone(folder, place / "three")).as_user(SECOND, place / "home-2")
    refused = three.run("omniopd", "cache", "pull", check=False)
    assert refused.returncode == 2
    for path, oid in zip(paths, oids, strict=True):
        assert re.search(f"{path} of [^ ]+ .damaged: {oid}", refused.stderr)
    cached = team.objects(three.folder / ".dvc/cache")
    assert not cached & set(oids)
    for oid in oids:
        s3.delete_object(Bucket="team", Key=f"study/files/md5/{oid[:2]}/{oid[2:]}")
    one.run("omniopd", "cache", "push")
    three.run("omniopd", "cache", "pull")
    assert team.stale(three.folder) == set()
