"""Stores, spools and archives of version 2: read, and brought into today's tables.

tests/judgments/version2 was made by a release of that version (its make.py).
"""

import contextlib
import json
import lzma
import multiprocessing
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.commands import judgments
from pipeline.core.errors import UserError
from pipeline.judgments import archive, database, recovery, repair, sums
from pipeline.judgments.earlier import layout, lock, migrate
from pipeline.judgments.keys import canonical, plain
from pipeline.judgments.ledger import Entry
from pipeline.judgments.opened import OpenDatabase
from pipeline.judgments.schema import CLAIMS, EARLIER, MARK, VERSION, Judgment
from pipeline.judgments.store import Batch, Store
from tests.answers import sound, wanted
from tests.project import ROOT

MADE = Path(__file__).parent / "version2"
EXPECTED = json.loads((MADE / "expected.json").read_text())
SPAWN = multiprocessing.get_context("spawn")
# the other tables of that version, as its release made them
OTHERS = sa.MetaData()
LEDGER = sa.Table(
    "ledger",
    OTHERS,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.String(16), nullable=False, index=True),
    sa.Column("created_at", sa.Double, nullable=False),
    *(sa.Column(name, sa.Integer) for name in ("reused", "misses", "bought", "requests")),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
)
LINE = {"reused": 0, "misses": 0, "bought": 1, "requests": 1, "tokens": 9, "usd": 0.5}


def expected():
    """The answers of the files, with samplers written as they are now."""
    rows = [
        row | {"token_ids": row["token_ids"] and tuple(row["token_ids"])}
        for row in EXPECTED["answers"]
    ]
    rows = [row | {"token_ids": () if row["token_ids"] == [] else row["token_ids"]} for row in rows]
    found = [Judgment(**row) for row in rows]
    return sorted(
        one._replace(sampler=canonical(plain(json.loads(one.sampler))).decode()) for one in found
    )


def made(url):
    """The store of version 2 as a file at `url`."""
    file = Path(sa.make_url(url).database)
    file.write_bytes(lzma.decompress((MADE / "judgments.sqlite.xz").read_bytes()))
    return url


def tables_of_2(url):
    """Empty tables of version 2."""
    engine = database.connectable(database.parse(url))
    with engine.begin() as connection:
        for metadata in (layout.METADATA, OTHERS):
            metadata.create_all(connection)
        for table in ("omniopd_judgments", "claims", "batches", "checks"):
            MARK.metadata.tables[table].create(connection)
        connection.execute(MARK.insert().values(version=EARLIER))
    return engine


def row_of_2(found):
    return dict(zip(sums.NAMES, (*sums.stored(found), sums.checksum(found)), strict=True))


def filled(url, answers, project="mine"):
    """A store of version 2 of these answers, with a line of the ledger for each."""
    engine = tables_of_2(url)
    with engine.begin() as connection:
        connection.execute(layout.JUDGMENTS.insert(), [row_of_2(found) for found in answers])
        lines = [LINE | {"project": project, "created_at": float(i)} for i in range(len(answers))]
        connection.execute(LEDGER.insert(), lines)
    engine.dispose()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.team)])
def old(request, file_url, tmp_path):
    """The store of version 2, on each database."""
    made(file_url)
    if request.param == "sqlite":
        return file_url
    url = request.getfixturevalue("postgres")()
    engine = tables_of_2(url)
    with contextlib.closing(sqlite3.connect(tmp_path / "judgments.sqlite")) as file:
        file.row_factory = sqlite3.Row
        with engine.begin() as connection:
            tables = [*layout.METADATA.tables.values(), LEDGER]
            tables += [MARK.metadata.tables[name] for name in ("claims", "batches", "checks")]
            for table in tables:
                rows = [dict(row) for row in file.execute(f"select * from {table.name}")]
                for row in rows if table is layout.JUDGMENTS else ():
                    row["ended"] = bool(row["ended"])
                connection.execute(table.insert(), rows)
    engine.dispose()
    (tmp_path / "judgments.sqlite").unlink()
    return url


def contents(store):
    return sorted(found for chunk in store.rows.ordered() for found in chunk)


def version(url):
    opened = OpenDatabase(database.parse(url))
    opened.close()
    return opened.version, set(opened.tables)


# what is kept


def test_a_store_of_version_2_is_opened_with_every_answer_and_every_dollar(old):
    everything = expected()
    with Store(old, "mine") as store, Store(old, "theirs") as theirs:
        assert contents(store) == everything
        assert archive.verify(store) == len(everything)
        for found, project in ((store, "mine"), (theirs, "theirs")):
            spent, known = found.spent(), EXPECTED["spent"][project]
            assert spent == Entry(**known | {"usd": pytest.approx(known["usd"], rel=1e-12)})
        (batch,) = store.open_batches("anthropic claude")
        assert batch == Batch("b1", tuple(EXPECTED["batch"]))
        assert store.checked("a teacher")
        with store.database.reading() as connection:
            claimed = connection.execute(sa.select(CLAIMS.c.key)).scalars().all()
        assert claimed == [EXPECTED["claimed"]]
    tables = version(old)[1]
    assert tables >= {"entries", "totals", "prefixes", "answers"}
    assert not tables & {"judgments", "judgments_2", "ledger", "migration"}


def test_what_is_asked_is_found_by_its_request(file_url):
    filled(file_url, [sound(i) for i in range(5)])
    with Store(file_url) as store:
        assert list(store.find(map(wanted, range(7)), 8)) == [sound(i) for i in range(5)]
        assert store.claims.claim(map(wanted, range(7)), 8) == {sound(5).key, sound(6).key}
        assert store.spent() == Entry()


def test_a_reply_that_an_older_release_kept_is_taken_in(file_url, tmp_path):
    made(file_url)
    spooled = shutil.copy(MADE / "spool.jsonl", tmp_path / "kept.jsonl")
    with Store(file_url, "mine", tmp_path / ".spool") as store:
        before = store.spent()
        assert recovery.recover(store, [Path(spooled)]).answers == 1
        assert store.spent().usd == before.usd + 0.5
        shutil.copy(MADE / "spool.jsonl", spooled)
        assert recovery.recover(store, [Path(spooled)]).answers == 0
        assert store.spent().requests == before.requests + 1
        assert archive.verify(store) == len(EXPECTED["answers"]) + 1


def test_an_export_of_an_older_release_is_imported(url):
    with Store(url) as store:
        moved = archive.import_(store, MADE / "answers.parquet")
        assert moved == archive.Moved(len(EXPECTED["answers"]), len(EXPECTED["answers"]))
        assert contents(store) == expected()


def test_a_store_of_version_2_is_merged_from_and_stays_what_it_is(old, tmp_path):
    with Store(f"sqlite:///{tmp_path / 'mine.sqlite'}") as store, archive.source(old) as other:
        assert archive.merge(store, other).new == len(EXPECTED["answers"])
        assert archive.merge(store, other).new == 0
        assert contents(store) == expected()
    assert version(old)[0] == EARLIER


# what is refused


def test_a_file_that_may_only_be_read_is_refused_with_both_versions(file_url, monkeypatch):
    made(file_url)
    monkeypatch.setattr(database, "read_only", lambda url: True)
    with pytest.raises(UserError, match=r"version 2, wanted 3, in a file that.*only read"):
        Store(file_url)


def test_without_room_for_the_new_rows_nothing_is_changed(file_url, tmp_path, monkeypatch):
    made(file_url)
    before = (tmp_path / "judgments.sqlite").read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match=r"found 0\.00 GB free, wanted .*Nothing was changed"):
        Store(file_url)
    with contextlib.closing(sqlite3.connect(tmp_path / "judgments.sqlite")) as file:
        file.execute("pragma journal_mode = delete")
    assert len((tmp_path / "judgments.sqlite").read_bytes()) == len(before)
    assert version(file_url)[0] == EARLIER


def test_what_an_older_release_makes_of_a_store_of_today(file_url):
    """It compares the version and stops, with its own words, which are those of this code."""
    with Store(file_url) as store:
        store.add([sound(1)])
    url = database.parse(file_url)
    waiting = database.Retries("x")
    with pytest.raises(UserError, match=r"version 3, wanted 2\. Use the release of omniopd-p"):
        database.check(
            database.connectable(url), waiting, "x", layout.METADATA, MARK, versions=[EARLIER]
        )


# damage


def edit(url, statement, *values):
    with contextlib.closing(sqlite3.connect(sa.make_url(url).database)) as file, file:
        assert file.execute(statement, values).rowcount == 1


def test_a_flipped_bit_of_an_old_row_is_put_back_on_the_way(file_url, caplog):
    filled(file_url, [sound(i) for i in range(5)])
    edit(file_url, "update judgments set text = '8+5=12,' where sample = 1")  # a bit of 3
    edit(file_url, "update judgments set key = ? where sample = 2", flipped(sound(2).key))
    with Store(file_url) as store:
        assert contents(store) == sorted(sound(i) for i in range(5))
    assert "2 of them repaired" in caplog.text


def flipped(key):
    return chr(ord(key[0]) ^ 1) + key[1:]


def test_damaged_rows_are_told_with_their_price_and_left_out_only_when_told(
    file_url, monkeypatch, caplog, capsys
):
    monkeypatch.setenv("JUDGMENTS_URL", file_url)
    filled(file_url, [sound(i, usd=0.25) for i in range(5)])
    for sample in (1, 3):
        edit(file_url, "update judgments set text = 'another one' where sample = ?", sample)
    told = r"2 answers of version 2 are damaged, and cost \$0\.5000.*None was removed.*--drop-dam"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            judgments.repair(drop_damaged=False)
    assert version(file_url)[0] == EARLIER
    judgments.repair(drop_damaged=True)
    assert "2 damaged ones left out" in caplog.text
    with Store(file_url) as store:
        assert contents(store) == sorted(sound(i, usd=0.25) for i in (0, 2, 4))
        assert archive.verify(store) == 3
        assert store.claims.claim([wanted(1)], 8) == {sound(1).key}
        assert repair.repair(store).damaged == []


# killed, or two at once


def run(url, **more):
    """A process that opens the store."""
    code = (
        "import sys, time; from pipeline.judgments.earlier import migrate; "
        "from pipeline.judgments.store import Store; migrate.BATCH = 50; "
        "exec(sys.argv[2]); Store(sys.argv[1]).__exit__(None, None, None)"
    )
    command = [sys.executable, "-c", code, url, more.pop("first", "")]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def done(url):
    """Answers that are done, as far as a process that was killed has come."""
    engine = database.connectable(database.parse(url))
    try:
        with engine.begin() as connection:
            if migrate.PROGRESS.name not in sa.inspect(connection).get_table_names():
                return 0
            return connection.execute(sa.select(migrate.PROGRESS.c.done)).scalar() or 0
    except sa.exc.OperationalError:
        return 0
    finally:
        engine.dispose()


MANY = [sound(i, text=f"answer {i}") for i in range(1000)]
SLOW = """
def slow(*args, save=migrate._Migration._save):
    save(*args)
    time.sleep(0.05)

migrate._Migration._save = slow
"""
KILLED_AFTER = """
import os, signal
saved = []

def last(*args, save=migrate._Migration._save):
    save(*args)
    saved.append(args)
    if len(saved) == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)

migrate._Migration._save = last
"""
KILLED = """
import os, signal
from pipeline.judgments.opened import OpenDatabase
calls = []

def again(self, really=OpenDatabase.again):
    really(self)
    calls.append(self)
    if len(calls) == 2:  # the last transaction is over
        os.kill(os.getpid(), signal.SIGKILL)

OpenDatabase.again = again
"""


@pytest.mark.parametrize("where", ["at first", "in the middle", "late"])
def test_a_process_that_is_killed_on_the_way_loses_nothing(url, where, caplog):
    filled(url, MANY)
    goal = {"at first": 50, "in the middle": 400, "late": 900}[where]
    _, said = run(url, first=KILLED_AFTER.format(batches=goal // 50)).communicate(timeout=120)
    kept = done(url)
    assert kept == goal, said
    assert version(url)[0] == EARLIER
    assert "judgments" in version(url)[1]
    engine = database.connectable(database.parse(url))
    with engine.begin() as connection:  # what an older release does meanwhile
        more = row_of_2(sound(5000))
        connection.execute(layout.JUDGMENTS.insert(), [more])
    engine.dispose()
    caplog.clear()
    with Store(url, "mine") as store:
        assert contents(store) == sorted([*MANY, sound(5000)])
        assert archive.verify(store) == len(MANY) + 1
        assert store.spent().requests == len(MANY)
    if url.startswith("sqlite"):  # it went on, and did not begin anew
        assert f"{len(MANY) + 1 - kept:,} of {len(MANY) + 1:,} answers" in caplog.text


def test_a_process_that_is_killed_before_the_old_rows_are_removed_loses_nothing(url):
    filled(url, MANY[:100])
    process = run(url, first=KILLED)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert version(url)[0] == VERSION
    assert "judgments_2" in version(url)[1]
    with Store(url) as store:
        assert contents(store) == sorted(MANY[:100])
    assert "judgments_2" not in version(url)[1]


def test_of_two_processes_that_open_it_at_once_one_waits_for_the_other(url):
    filled(url, MANY)
    both = [run(url, first=f"import logging; logging.basicConfig()\n{SLOW}") for _ in range(2)]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("answers are brought from version 2" in words for words in said) == 1
    assert sum("another process is bringing it" in words for words in said) == 1
    with Store(url) as store:
        assert contents(store) == sorted(MANY)
        assert archive.verify(store) == len(MANY)


def test_a_process_of_an_older_release_that_has_it_open_gets_an_error_and_keeps_its_reply(url):
    filled(url, MANY[:10])
    engine = database.connectable(database.parse(url))
    with Store(url):
        pass
    for table, row in (
        (layout.JUDGMENTS, row_of_2(sound(77))),
        (LEDGER, LINE | {"project": "mine", "created_at": 1.0}),
    ):
        with pytest.raises(sa.exc.DBAPIError), engine.begin() as connection:
            connection.execute(table.insert(), [row])
    engine.dispose()


@pytest.mark.team
def test_an_older_release_that_writes_to_postgres_meanwhile_waits(postgres):
    url = postgres()
    filled(url, MANY[:10])
    opened = OpenDatabase(database.parse(url))
    engine = database.connectable(database.parse(url))
    with lock.held(opened, str) as connection, engine.connect() as other:
        connection.exec_driver_sql("LOCK TABLE judgments, ledger IN SHARE MODE")
        other.exec_driver_sql("SET lock_timeout = '100ms'")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            other.execute(layout.JUDGMENTS.insert(), [row_of_2(sound(77))])
        other.rollback()
        assert len(other.execute(sa.select(layout.JUDGMENTS.c.key)).all()) == 10
    opened.close()
    engine.dispose()
