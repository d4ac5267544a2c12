"""Databases that fail while answers are bought: what arrived is stored later, and once."""

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from collections import Counter

import pytest
import sqlalchemy as sa

from pipeline import teachers
from pipeline.config import params
from pipeline.config.teachers import OpenAICompatibleTeacher
from pipeline.core.errors import UserError
from pipeline.judgments import database, recovery, retries
from pipeline.judgments import spool as spool_module
from pipeline.judgments.ledger import Entry
from pipeline.judgments.schema import CLAIMS
from pipeline.judgments.store import Batch, Store
from pipeline.teachers import network, protocol
from pipeline.teachers.purchase.budget import Budget
from pipeline.teachers.purchase.buyer import Judging, Wanted
from tests import providers
from tests.answers import answer, asked, claimed, key
from tests.databases import control
from tests.servers import Pure

SPAWN = multiprocessing.get_context("spawn")
SAMPLES = 2
PAID = Entry(bought=1, requests=1, tokens=9, usd=0.25)


@pytest.fixture
def soon(monkeypatch):
    """Nothing is waited for long."""
    monkeypatch.setattr(retries, "RETRY_SECONDS", 0.5)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)


@pytest.fixture
def spool(tmp_path):
    return tmp_path / ".spool"


def buying(store, url, concurrency=4, **more):
    config = OpenAICompatibleTeacher(
        kind="openai_compatible",
        model="stub-1",
        base_url=f"{url}/v1",
        concurrency=concurrency,
        **{"timeout_seconds": 60.0, "tries": 1, **more},
    )
    asked = protocol.Asked("prefill", 1.0, "live", params.Runtime())
    teacher = teachers.load(config, "it", asked, None, None)
    return Judging(teacher, Wanted(SAMPLES, 12, 0, 3, 1.0, False), Budget(store))


def ask(store, url, prefixes, **more):
    return providers.ask(buying(store, url, **more), [f"{n}+5=" for n in range(prefixes)])


@contextlib.contextmanager
def locked(url):
    """Another connection keeps a SQLite file from being written to."""
    file = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")


def lapse(store):
    """The claims of a run that could not give them up."""
    with store.database.writing() as connection:
        connection.execute(CLAIMS.delete())


def once_each(server, store, count, twice=0):
    """Every answer is there, the ledger has each reply once; how many were bought twice."""
    counts = Counter(server.whole.values())
    assert len(server.whole) == store.stats().answers == count
    assert set(counts) <= {1, 2}
    assert counts[2] <= twice
    assert store.stats().bought == store.stats().requests
    assert count <= store.stats().bought <= len(server.requests)


# errors that pass


def test_a_file_that_is_locked_for_a_while_costs_no_answer(file_url, spool, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with Pure().running() as server, Store(file_url, "mine", spool) as store:
        held = threading.Event()

        def hold():
            while len(server.requests) < 5:
                time.sleep(0.005)
            with locked(file_url):
                held.set()
                time.sleep(0.6)

        thread = threading.Thread(target=hold)
        thread.start()
        ask(store, server.url, 20)
        thread.join()
        assert held.is_set()
        once_each(server, store, 20 * SAMPLES)
    assert list(spool.iterdir()) == []


def test_a_mistake_is_not_tried_again(url, spool):
    with Store(url, "mine", spool) as store:
        start = time.monotonic()
        with pytest.raises(UserError, match="mistake in the program"):
            store.add([answer("a", text=None)], PAID)
        assert time.monotonic() - start < retries.RETRY_SECONDS / 10
        with store.database.writing() as connection:
            connection.execute(sa.text("drop table entries"))
        with pytest.raises(UserError, match="entries"):
            store.enter(PAID)
        assert time.monotonic() - start < retries.RETRY_SECONDS / 10


def test_a_wait_is_said_once_with_its_cause_its_end_and_the_remedy(
    file_url, soon, monkeypatch, caplog
):
    monkeypatch.setattr(retries, "TOLD_SECONDS", 0.1)
    told = r"locked\. Another process keeps the file locked.*end"
    with Store(file_url) as store, locked(file_url), pytest.raises(UserError, match=told):
        store.add([answer("a")])
    (line,) = [record.message for record in caplog.records if "judgments at" in record.message]
    assert "until" in line
    assert "fuser" in line


def test_a_store_that_stays_away_is_waited_for_once_and_not_in_each_call(file_url, soon):
    with Store(file_url) as store, locked(file_url):
        for _ in range(2):
            start = time.monotonic()
            with pytest.raises(UserError, match="locked"):
                store.enter(PAID)
        assert time.monotonic() - start < 0.45  # one try


def test_a_store_that_cannot_be_reached_at_first_is_no_wait():
    start = time.monotonic()
    with pytest.raises(UserError, match="refused"):
        Store("postgresql://me@127.0.0.1:1/x")
    assert time.monotonic() - start < 30


def test_who_holds_a_claim_is_told_by_process_and_host(url, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "a-host-with-a-name-that-is-long-ü")
    with Store(url) as store, Store(url) as other:
        claimed(store, ["a"])
        claimed(other, ["b"])
        me = f"process {os.getpid()} on a-host"
        assert all(
            who.startswith(me) for who in store.claims.holders([key("a"), key("b"), key("c")])
        )
        with store.database.writing() as connection:  # as earlier releases wrote it
            connection.execute(CLAIMS.update().values(owner="f" * 32))
        assert store.claims.holders([key("a"), key("b")]) == ["another process"]
        assert store.claims.holders([key("c")]) == []


# what arrived and cannot be stored


def test_what_arrives_while_the_file_is_locked_is_taken_in_by_the_next_run(
    file_url, spool, soon, tmp_path
):
    with Pure(seconds=0.05).running() as server:
        with Store(file_url, "mine", spool) as store:
            judging = buying(store, server.url)
            keep = store._store
            with contextlib.ExitStack() as stack:

                def lock_first(kept, **more):
                    if kept.judgments and store._store is lock_first:
                        stack.enter_context(locked(file_url))
                        store._store = keep
                    return keep(kept, **more)

                store._store = lock_first
                with pytest.raises(UserError, match=r"kept in .*omniopd judgments recover"):
                    providers.ask(judging, [f"{n}+5=" for n in range(20)])
        arrived = len(server.whole)
        assert 4 <= arrived < 20 * SAMPLES
        with Store(file_url, "mine", spool) as store:
            lapse(store)
            ask(store, server.url, 20)
            once_each(server, store, 20 * SAMPLES)
    assert set(server.whole.values()) == {1}
    assert list(spool.iterdir()) == []


def test_a_full_disk_loses_nothing_and_names_the_remedy(file_url, spool, soon):
    with Pure().running() as server:
        with Store(file_url, "mine", spool) as store:
            keep, engine = store._store, store.database._engine

            def fill(kept, **more):
                if kept.judgments and store._store is fill:
                    store._store = keep
                    with engine.connect() as connection:
                        pages = connection.exec_driver_sql("pragma page_count").scalar()
                    full = f"pragma max_page_count = {pages}"
                    sa.event.listen(engine, "connect", lambda found, _: found.execute(full))
                    engine.dispose()  # the connections without it
                return keep(kept, **more)

            store._store = fill
            with pytest.raises(UserError, match=r"full\. Free space.*kept in"):
                ask(store, server.url, 120)
        assert 0 < len(server.whole) < 120 * SAMPLES
        with Store(file_url, "mine", spool) as store:
            ask(store, server.url, 120)
            once_each(server, store, 120 * SAMPLES)
    assert set(server.whole.values()) == {1}


def test_taking_in_twice_changes_nothing_and_another_store_is_not_served_unasked(
    url, spool, tmp_path, monkeypatch
):
    with Store(url, "mine", spool) as store, monkeypatch.context() as patch:
        patch.setattr(store, "_store", broken)
        for name in "ab":
            with pytest.raises(UserError, match="kept in"):
                store.add([answer(name)], PAID)
        with pytest.raises(UserError, match="kept in"):
            store.enter(Entry(requests=1))
    (file,) = spool.iterdir()
    again = file.read_bytes()
    with Store(f"sqlite:///{tmp_path / 'other.sqlite'}", "mine", spool) as other:
        assert recovery.take_in(other) == 0
        assert other.stats().answers == 0
    for new in (2, 0):
        with Store(url, "mine", spool) as store:
            assert recovery.take_in(store) == new
            assert not file.exists()
            assert (store.stats().answers, store.spent()) == (2, Entry(0, 0, 2, 3, 18, 0.5))
        file.write_bytes(again)
    with Store(f"sqlite:///{tmp_path / 'other.sqlite'}", "yours", spool) as other:
        assert recovery.recover(other, [file]).answers == 2
        assert other.spent() == Entry()  # another project paid


def broken(kept, **_):
    raise UserError("the store is away.")


def test_a_torn_line_is_said_and_kept_and_the_others_are_taken_in(
    file_url, spool, monkeypatch, caplog
):
    with Store(file_url, "mine", spool) as store, monkeypatch.context() as patch:
        patch.setattr(store, "_store", broken)
        for name in "abc":
            with pytest.raises(UserError):
                store.add([answer(name)], PAID)
    (file,) = spool.iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    rotten = lines[1].replace(b"8+5=13", b"8+5=14")
    file.write_bytes(lines[0] + rotten + lines[2][:-30])
    with Store(file_url, "mine", spool) as store:
        assert recovery.take_in(store) == 1
    assert file.with_suffix(".damaged").read_bytes() == rotten + lines[2][:-30]
    assert not file.exists()
    assert "no whole reply" in caplog.text


def test_what_a_living_process_keeps_is_taken_in_and_its_file_stays(file_url, spool, monkeypatch):
    with Store(file_url, "mine", spool) as store, monkeypatch.context() as patch:
        patch.setattr(store, "_store", broken)
        with pytest.raises(UserError):
            store.add([answer("a")], PAID)
        with Store(file_url, "mine", spool) as other:
            assert (recovery.take_in(other), recovery.take_in(other)) == (1, 0)
            assert other.spent() == PAID
        with pytest.raises(UserError):
            store.add([answer("b")], PAID)
    with Store(file_url, "mine", spool) as other:
        assert recovery.take_in(other) == 1
        assert list(spool.iterdir()) == []


def test_room_for_what_arrives_is_taken_before_the_disk_is_full(file_url, spool, monkeypatch):
    write, free = os.pwrite, spool_module.RESERVE

    def full(file, data, offset):
        if offset + len(data) > free:
            raise OSError(28, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with Store(file_url, "mine", spool) as store, store.claims.holding([asked("a")], 8):
        (file,) = spool.iterdir()
        assert file.stat().st_blocks * 512 >= free
        monkeypatch.setattr(store, "_store", broken)
        with pytest.raises(UserError, match="kept in"):
            store.add([answer("a")], PAID)
        with pytest.raises(UserError, match="1 answers, paid for, could not be kept"):
            store.add([answer("b", text="x" * free)], PAID)
        with pytest.raises(UserError, match="kept in"):
            store.add([answer("c")], PAID)
    with Store(file_url, "mine", spool) as store:
        assert recovery.take_in(store) == 2
        assert list(spool.iterdir()) == []


def test_what_a_killed_process_reserved_is_removed(file_url, spool):
    spool.mkdir()
    with Store(file_url, "mine", spool) as store:
        store.spool.reserve()
        left = store.spool.path.read_bytes()
        path = store.spool.path.with_name(store.spool.path.name.replace("-", "-0", 1))
        path.write_bytes(left)
        assert recovery.take_in(store) == 0
        assert list(spool.iterdir()) == [store.spool.path]
    assert list(spool.iterdir()) == []


def test_a_batch_that_was_handed_in_is_not_forgotten(url, spool, monkeypatch):
    batch = Batch("b1", ("a", "b"))
    with Store(url, "mine", spool) as store, monkeypatch.context() as patch:
        patch.setattr(store, "_store", broken)
        with pytest.raises(UserError, match="kept in"):
            store.keep_batch("anthropic m", batch)
    with Store(url, "mine", spool) as store:
        recovery.take_in(store)
        assert store.open_batches("anthropic m") == [batch]


def test_an_interrupt_drops_no_reply_that_arrived(file_url, spool):
    with Pure(seconds=0.02).running() as server:
        with Store(file_url, "mine", spool) as store:
            judging = buying(store, server.url)
            keep, number = store._store, iter(range(1000))

            def interrupted(kept, **more):
                if kept.judgments and next(number) == 5:
                    raise KeyboardInterrupt
                return keep(kept, **more)

            store._store = interrupted
            with pytest.raises(KeyboardInterrupt):
                providers.ask(judging, [f"{n}+5=" for n in range(20)])
        assert 6 <= len(server.whole) < 20 * SAMPLES
        with Store(file_url, "mine", spool) as store:
            ask(store, server.url, 20)
            once_each(server, store, 20 * SAMPLES)
    assert set(server.whole.values()) == {1}


def test_the_command_takes_in_by_hand_and_names_files_of_other_stores(
    file_url, tmp_path, spool, monkeypatch
):
    from typer.testing import CliRunner

    from pipeline.commands.judgments import app

    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    for name, url in (("a", file_url), ("b", other)):
        with Store(url, "mine", spool) as store, monkeypatch.context() as patch:
            patch.setattr(store, "_store", broken)
            with pytest.raises(UserError):
                store.add([answer(name)], PAID)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGMENTS_URL", file_url)
    found = CliRunner().invoke(app, ["recover"]).output
    assert "1 files, 1 replies read, 1 answers new" in found
    (left,) = spool.iterdir()
    assert f"only by name: .spool/{left.name}" in found
    assert "1 answers new" in CliRunner().invoke(app, ["recover", f".spool/{left.name}"]).output
    with Store(file_url) as store:
        assert store.stats().answers == 2


# a store that is slower than the network


@pytest.mark.parametrize("limited", [False, True])
def test_a_store_slower_than_the_timeout_fails_no_reply_that_came_in_time(
    store, monkeypatch, limited
):
    add, look = store._store, store.spent

    def slow(*args, **more):
        time.sleep(1.2)
        return add(*args, **more)

    monkeypatch.setattr(store, "_store", slow)
    monkeypatch.setattr("pipeline.teachers.purchase.budget.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(store, "spent", lambda: [time.sleep(1.2 * limited), look()][1])
    with Pure(seconds=0.1).running() as server:
        judging = buying(store, server.url, concurrency=2, timeout_seconds=1.0)
        judging.budget.max_requests = 100 if limited else None
        providers.ask(judging, ["1+5=", "2+5="])
    assert len(server.requests) == 2 * SAMPLES
    assert judging.ledger.requests == 2 * SAMPLES


def test_replies_that_are_not_stored_yet_are_few(store, monkeypatch):
    add, most = store._store, []
    with Pure().running() as server:

        def slow(kept, **more):
            time.sleep(0.05)
            most.append(len(server.requests) - judging.ledger.bought)
            return add(kept, **more)

        monkeypatch.setattr(store, "_store", slow)
        judging = buying(store, server.url, concurrency=2)
        providers.ask(judging, [f"{n}+5=" for n in range(10)])
    assert 2 < max(most) <= 4  # twice the concurrency


def test_an_interrupt_ends_a_wait_for_a_slow_provider(store, monkeypatch):
    monkeypatch.setattr(network, "STOP_SECONDS", 0.2)
    with Pure(seconds=60.0).running() as server:
        main = threading.get_ident()

        def interrupt():
            while not server.requests:
                time.sleep(0.01)
            signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=interrupt).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(store, server.url, 2)
        assert time.monotonic() - start < 45
    assert "network" not in {thread.name for thread in threading.enumerate()}


# Postgres


@pytest.mark.team
@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_postgres_that_restarts_costs_no_answer(postgres, postgres_server, spool, how):
    def restart():
        while len(server.requests) < 10:
            time.sleep(0.005)
        control(postgres_server, "restart", "-m", how)

    with Pure(seconds=0.02).running() as server, Store(postgres(), "mine", spool) as store:
        thread = threading.Thread(target=restart)
        thread.start()
        ask(store, server.url, 60)
        thread.join()
        once_each(server, store, 60 * SAMPLES)
    assert set(server.whole.values()) == {1}
    assert list(spool.iterdir()) == []


@pytest.mark.team
def test_what_arrives_while_postgres_is_down_is_taken_in_later(
    postgres, postgres_server, spool, soon
):
    url = postgres()

    def stop():
        while len(server.requests) < 10:
            time.sleep(0.005)
        control(postgres_server, "stop", "-m", "fast")

    with Pure(seconds=0.02).running() as server:
        thread = threading.Thread(target=stop)
        thread.start()
        try:
            with (
                Store(url, "mine", spool) as store,
                pytest.raises(UserError, match=r"Check that it runs.*kept in"),
            ):
                ask(store, server.url, 60)
        finally:
            thread.join()
            control(postgres_server, "restart")  # with its options
        with Store(url, "mine", spool) as store:
            lapse(store)
            ask(store, server.url, 60)
            once_each(server, store, 60 * SAMPLES)
    assert set(server.whole.values()) == {1}


@pytest.mark.team
def test_a_store_that_others_reached_is_waited_for_and_told_of_at_once(
    postgres, postgres_server, caplog
):
    url = postgres()
    with Store(url, "mine") as store:
        store.add([answer("a")], PAID)
    control(postgres_server, "stop", "-m", "fast")
    try:
        with pytest.raises(UserError, match="Check that it runs"):
            Store(url, "mine")  # by whom nobody knows whether the URL is right
        caplog.clear()
        thread = threading.Timer(1.0, control, (postgres_server, "restart"))
        thread.start()
        with Store(url, "mine", reached=True) as store:
            assert [found.key for found in store.find([asked("a")], 1)] == [key("a")]
        thread.join()
    finally:
        if not thread.finished.is_set():
            control(postgres_server, "restart")
    (line,) = [record.message for record in caplog.records if "judgments at" in record.message]
    assert "Tried again until" in line


LOOKS = {
    "find": lambda store: [found.key for found in store.find([asked("a")], 1)],
    "claim": lambda store: claimed(store, ["a", "b"]),
    "holders": lambda store: len(store.claims.holders([key("c")])),
    "expiry": lambda store: store.claims.expiry([key("c")]) is not None,
    "spent": lambda store: store.spent(),
    "checked": lambda store: store.checked("one"),
    "stats": lambda store: store.stats().answers,
    "batches": lambda store: store.open_batches("one"),
    "all": lambda store: [found.key for some in store.rows.stream() for found in some],
}


@pytest.mark.team
@pytest.mark.parametrize("look", LOOKS)
def test_a_query_that_postgres_cuts_off_is_asked_again(postgres, look):
    url = postgres()
    with Store(url, "mine") as store, Store(url, "other") as other:
        store.add([answer("a")], PAID)
        store.passed("one")
        assert claimed(other, ["c"]) == {"c"}
        wanted = {
            "find": [key("a")], "claim": {"b"}, "holders": 1, "expiry": True, "spent": PAID,
            "checked": True, "stats": 1, "batches": [], "all": [key("a")],
        }[look]  # fmt: skip
        cut = []

        def end(connection, cursor, statement, *_):
            if not cut and statement.lstrip().upper().startswith(("SELECT", "WITH")):
                cut.append(statement)
                number = connection.connection.dbapi_connection.info.backend_pid
                ended = sa.text("select pg_terminate_backend(:number, 5000)")
                with other.database.writing() as another:
                    assert another.execute(ended, {"number": number}).scalar_one()

        sa.event.listen(store.database._engine, "before_cursor_execute", end)
        assert LOOKS[look](store) == wanted
        assert len(cut) == 1


@pytest.mark.team
def test_a_commit_whose_outcome_is_unknown_enters_the_ledger_once(postgres, monkeypatch):
    with Store(postgres(), "mine") as store:
        lost = sa.exc.OperationalError("commit", None, Exception("the connection is lost"))
        committed = []

        def commit(connection):
            if not committed and connection.get_execution_options().get("write"):
                committed.append(connection)
                connection.connection.commit()
                raise lost

        sa.event.listen(store.database._engine, "commit", commit)
        store.add([answer("a")], PAID)
        assert (len(committed), store.stats().answers, store.spent()) == (1, 1, PAID)
        committed.clear()
        assert claimed(store, ["b"]) == {"b"}
        assert len(committed) == 1


def stop_in_a_transaction(url, said):
    """Tell when the claim on `a` is locked, and go on a second later."""
    database.IDLE_SECONDS = 1
    with Store(url) as store:
        waited = False

        def slow(connection):
            nonlocal waited
            connection.execute(CLAIMS.insert().values(key=key("a"), owner="me", expires_at=1.0))
            if not waited:
                waited = True
                said.send("locked")
                time.sleep(1.0)

        store.database.write(slow)
        said.send("written")


@pytest.mark.team
def test_postgres_ends_the_transaction_of_a_stopped_client_which_then_writes_again(postgres):
    url = postgres()
    heard, said = SPAWN.Pipe(duplex=False)
    with Store(url) as store:
        process = SPAWN.Process(target=stop_in_a_transaction, args=(url, said))
        process.start()
        try:
            assert heard.poll(120)
            assert heard.recv() == "locked"
            os.kill(process.pid, signal.SIGSTOP)
            assert claimed(store, ["a"]) == {"a"}  # waits for the row
            store.claims.release([key("a")])
            os.kill(process.pid, signal.SIGCONT)
            assert heard.poll(120)
            assert heard.recv() == "written"
        finally:
            process.kill()
            process.join(60)
