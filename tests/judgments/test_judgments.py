import contextlib
import itertools
import multiprocessing
import sqlite3
import threading
import time
import traceback
from dataclasses import replace

import pytest

from pipeline.core.errors import UserError
from pipeline.judgments import database
from pipeline.judgments import store as judgments
from pipeline.judgments.keys import seed_for
from pipeline.judgments.ledger import Counts, Entry
from pipeline.judgments.opened import CHUNK
from pipeline.judgments.store import Store
from tests.answers import (
    REQUEST,
    all_asked,
    answer,
    answered,
    asked,
    claimed,
    key,
    named,
    renewed,
)

SPAWN = multiprocessing.get_context("spawn")


# what a request is


def test_samples_of_one_prefix_have_keys_and_seeds_of_their_own():
    wanted = [replace(REQUEST, sample=i, seed=seed_for((1, 2, 3), i)) for i in range(200)]
    assert len({request.key for request in wanted}) == 200
    assert len({request.seed for request in wanted}) == 200
    unseeded = [replace(REQUEST, sample=i, seed=None) for i in range(200)]
    assert len({request.key for request in unseeded}) == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "openai"},
        {"model": "m2"},
        {"prompt": (1, 2, 4)},
        {"prompt": "[1,2,3]"},
        {"continuation": "prefill"},
        {"sampler": {"temperature": 0.9, "top_p": 1.0}},
        {"sampler": {"temperature": 1.0}},
        {"sampler": {"temperature": 1.0, "top_p": 1.0, "top_k": 20}},
        {"sample": 1},
        {"seed": 8},
        {"seed": None},
        {"attempt": 1},
        {"epoch": 1},
    ],
    ids=str,
)
def test_every_field_of_a_request_changes_its_key(changes):
    assert replace(REQUEST, **changes).key != REQUEST.key


def test_a_key_is_the_published_one_on_every_machine():
    # computed by hand with sha256sum; a change here orphans every answer ever bought
    assert REQUEST.key == "a35a42333c678865932a7dbcc423c32bde8e3848b928433af4c0dcad299f8fb5"


def test_settings_written_in_another_order_or_as_integers_keep_the_key():
    assert replace(REQUEST, sampler={"top_p": 1, "temperature": 1}).key == REQUEST.key


def test_a_seed_fits_int32_and_depends_on_prefix_sample_and_attempt():
    seeds = {seed_for((prefix,), sample) for prefix in range(300) for sample in (0, 1, 65535)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_for("a", 0) == seed_for("a", 0)
    assert seed_for("a", 0) != seed_for("a", 0, attempt=1)
    with pytest.raises(ValueError, match="sample 65536"):
        seed_for("a", 65536)


# what is stored


def test_an_answer_comes_back_as_it_was_stored(url):
    stored = [answer("a", text="naïve\n\x00", token_ids=None), answer("b", failure="refusal")]
    with Store(url) as store:
        store.add(stored)
    with Store(url) as store:
        assert list(store.find(all_asked(["b", "missing", "a"]), 8)) == stored[::-1]


def test_a_larger_limit_serves_a_smaller_one_and_not_the_reverse(url):
    with Store(url) as store:
        store.add([answer("a", 50, text="long")])
        assert [found.text for found in store.find([asked("a")], 10)] == ["long"]
        assert [found.text for found in store.find([asked("a")], 50)] == ["long"]
        assert list(store.find([asked("a")], 51)) == []


@pytest.mark.parametrize("limits", list(itertools.permutations([20, 50, 100])), ids=str)
def test_of_several_rows_that_serve_the_smallest_limit_is_used(url, limits):
    with Store(url) as store:
        for limit in limits:
            store.add([answer("a", limit)])
        assert [found.token_limit for found in store.find([asked("a")], 21)] == [50]


def test_a_look_up_longer_than_a_chunk_finds_all_in_order(url):
    keys = [f"k{i}" for i in range(2 * CHUNK + 1)]
    with Store(url) as store:
        store.add([answer(key) for key in keys])
        assert answered(store, iter(keys[::-1])) == keys[::-1]


def test_answers_of_a_response_are_stored_all_or_none(url):
    with Store(url) as store:
        claimed(store, ["a", "b"], 8)
        with pytest.raises(UserError, match="text: found NoneType, wanted str"):
            store.add([answer("a"), answer("b", text=None)])
        assert answered(store, ["a", "b"]) == []
        assert renewed(store, ["a", "b"]) == {"a", "b"}  # claims go only with the answers


def test_the_first_writer_wins_and_a_second_write_changes_nothing(url):
    with Store(url) as store, Store(url) as other:
        store.add([answer("a", text="first")])
        other.add([answer("a", text="second"), answer("b")])
        assert [found.text for found in store.find([asked("a")], 8)] == ["first"]
        assert store.stats().answers == 2


def test_stats_count_answers_failures_and_tokens(url):
    with Store(url) as store:
        assert store.stats() == Counts(0, 0, 0, 0, 0, 0, 0, 0)
        store.enter(Entry(reused=3, misses=2))
        paid = Entry(bought=2, requests=4, tokens=25, usd=0.5)
        store.add([answer("a"), answer("b", failure="refusal")], paid)
        store.add([answer("c")])  # imported: not paid for here
        assert store.stats() == Counts(3, 1, 2, 3, 2, 4, 25, 0.5)


def test_a_project_sees_what_it_spent_and_not_what_others_did(url):
    with Store(url, "mine") as store, Store(url, "theirs") as other:
        other.enter(Entry(requests=7, usd=1.0))
        store.add([answer("a")], Entry(bought=1, requests=2, tokens=9, usd=0.25))
        assert store.spent() == Entry(bought=1, requests=2, tokens=9, usd=0.25)
        assert store.stats().requests == 9


def test_a_batch_is_open_until_its_last_key_is_collected(url):
    with Store(url) as store:
        store.keep_batch("anthropic m", judgments.Batch("b1", ("a", "b", "c")))
        assert store.open_batches("anthropic other") == []
        store.collected(store.open_batches("anthropic m")[0], {"a", "c"})
        assert store.open_batches("anthropic m") == [judgments.Batch("b1", ("b",))]
        store.collected(store.open_batches("anthropic m")[0], {"b"})
        assert store.open_batches("anthropic m") == []


def test_a_stream_has_every_answer_once_a_chunk_at_a_time(url):
    stored = [answer(f"k{i}") for i in range(2 * CHUNK + 1)] + [answer("k0", limit=9)]
    with Store(url) as store:
        store.add(stored)
        for chunks in (list(store.rows.stream()), list(store.rows.ordered())):
            assert sorted(found for chunk in chunks for found in chunk) == sorted(stored)
            assert max(map(len, chunks)) == CHUNK


def test_the_order_of_a_stream_is_the_answers_own(url, file_url, tmp_path):
    stored = [answer(f"k{i}", 8 + i % 3) for i in range(40)]
    with Store(url) as store, Store(f"sqlite:///{tmp_path / 'other.sqlite'}") as other:
        store.add(stored)
        for found in stored[::-1]:
            other.add([found])
        assert list(store.rows.ordered()) == list(other.rows.ordered())


@pytest.mark.parametrize("text", ["\\frac{1}{2}\\0\x00", "\x00", "\\\\", "\\\x00\\0", "naïve"])
def test_a_text_comes_back_to_the_letter(url, text):
    with Store(url) as store:
        store.add([answer("a", text=text)])
        assert next(store.find([asked("a")], 8)).text == text


# who may buy


def test_a_key_is_claimed_once_until_released_and_by_its_holder_alone(url):
    with Store(url) as store, Store(url) as other:
        assert claimed(store, ["a", "b"], 8) == {"a", "b"}
        assert claimed(store, ["a"], 8) == set()  # nor by another thread of its holder
        assert claimed(other, ["a", "b", "c"], 50) == {"c"}
        other.claims.release([key("a")])
        assert claimed(other, ["a"], 8) == set()
        store.claims.release([key("a")])
        assert claimed(other, ["a", "b"], 8) == {"a"}


def test_an_answered_key_is_not_for_sale_except_for_a_larger_limit(url):
    with Store(url) as store, Store(url) as other:
        claimed(store, ["a"], 8)
        store.add([answer("a", 8)])
        assert claimed(other, ["a"], 8) == set()
        assert claimed(other, ["a"], 9) == {"a"}  # storing released it


def test_a_lapsed_claim_goes_to_one_other_and_stays_there(url):
    with Store(url) as store, Store(url) as other:
        claimed(store, ["a"], 8, lease=0.05)
        time.sleep(0.1)
        assert claimed(other, ["a"], 8) == {"a"}
        assert renewed(store, ["a"]) == set()
        store.claims.release([key("a")])
        assert claimed(store, ["a"], 8) == set()


def test_a_renewed_lease_outlasts_a_slow_call(url):
    with Store(url) as store, Store(url) as other:
        with store.claims.holding(all_asked(["a"]), 8, lease=0.6) as held:
            assert held.keys == {key("a")}
            for _ in range(6):
                time.sleep(0.3)
                assert claimed(other, ["a"], 8) == set()
        assert claimed(other, ["a"], 8) == {"a"}
    assert "_keep" not in str(threading.enumerate())  # nothing renews after the block


def test_what_another_took_while_the_holder_stood_still_is_not_bought(url, monkeypatch):
    with (
        Store(url) as store,
        Store(url) as other,
        store.claims.holding(all_asked(["a", "b", "c"]), 8, 90.0) as held,
    ):
        store.add([answer("c")])
        assert held.still([key("a"), key("b")]) == {key("a"), key("b")}
        store.claims.renew(
            [key("a"), key("b")], -1.0
        )  # what a holder's claims are after it stood still
        assert claimed(other, ["a"], 8) == {"a"}
        assert held.still([key("a"), key("b")]) == {
            key("a"),
            key("b"),
        }  # it was renewed just now, as it thinks
        later = time.time() + 60
        monkeypatch.setattr(time, "time", lambda: later)
        assert held.still([key("a"), key("b")]) == {key("b")}
        assert held.lost == {key("a")}
        assert claimed(other, ["b"], 8) == set()  # it is held again


def test_a_clock_that_was_set_back_renews_before_it_buys(url, monkeypatch):
    with (
        Store(url) as store,
        Store(url) as other,
        store.claims.holding(all_asked(["a"]), 8, 90.0) as held,
    ):
        now, there = time.time(), database.now
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        monkeypatch.setattr(database, "now", lambda connection: there(connection) - 3600)
        assert claimed(other, ["a"], 8) == {"a"}  # it finds a claim of an hour
        assert held.still([key("a")]) == set()


@pytest.mark.parametrize("hours", [-1, 1])
def test_hosts_whose_clocks_differ_do_not_take_each_others_claims(url, monkeypatch, hours):
    real = time.time
    with Store(url) as store, Store(url) as other:
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        with store.claims.holding(all_asked(["a"]), 8, 30.0) as held:
            monkeypatch.setattr(time, "time", real)
            assert claimed(other, ["a"], 8) == set()
            monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
            assert held.still([key("a")]) == {key("a")}
            monkeypatch.setattr(time, "time", real)
            assert claimed(other, ["a"], 8) == set()


def test_the_database_s_clock_is_that_of_this_host_here(url):
    with Store(url) as store, store.database.reading() as connection:
        assert abs(database.now(connection) - time.time()) < 60


def test_claims_that_cannot_be_renewed_stop_the_purchase(store, monkeypatch):
    with store.claims.holding(all_asked(["a"]), 8, 90.0) as held:
        later = time.time() + 60
        monkeypatch.setattr(time, "time", lambda: later)

        def broken(keys):
            raise UserError("the disk is full")

        monkeypatch.setattr(held, "_renew", broken)
        with pytest.raises(UserError, match="the disk is full"):
            held.still([key("a")])


def test_an_error_while_holding_releases_the_claims(url):
    with Store(url) as store, Store(url) as other:
        with (
            pytest.raises(RuntimeError, match="teacher"),
            store.claims.holding(all_asked(["a"]), 8),
        ):
            raise RuntimeError("teacher")
        assert claimed(other, ["a"], 8) == {"a"}


def buy(url, log, keys, barrier):
    """Want `keys`: look up, buy what can be claimed, wait for the rest. Purchases go to `log`."""
    barrier.wait()
    with Store(url) as store:
        missing = set(keys)
        while missing:
            batch = [key for key in keys if key in missing][:10]
            with store.claims.holding(all_asked(batch), 8) as held:
                for name in named(held.keys, batch):
                    time.sleep(0.002)
                    with open(log, "a") as file:
                        file.write(f"{name}\n")
                    store.add([answer(name)])
            missing -= set(answered(store, missing))
            if not held.keys:
                time.sleep(0.005)


def test_four_processes_that_want_the_same_answers_buy_each_once(url, tmp_path):
    keys, log, barrier = [f"k{i}" for i in range(200)], tmp_path / "log", SPAWN.Barrier(4)
    orders = [keys, keys[::-1], keys[100:] + keys[:100], keys]
    buyers = [SPAWN.Process(target=buy, args=(url, log, order, barrier)) for order in orders]
    for buyer in buyers:
        buyer.start()
    for buyer in buyers:
        buyer.join(120)
    assert [buyer.exitcode for buyer in buyers] == [0] * 4
    assert sorted(log.read_text().split()) == sorted(keys)
    with Store(url) as store:
        assert answered(store, keys) == keys


def hold(url, keys, lease, ready):
    with Store(url) as store, store.claims.holding(all_asked(keys), 8, lease) as held:
        store.add([answer(keys[0])])
        ready.send(len(held.keys))
        time.sleep(600)


def test_a_killed_holder_keeps_what_it_stored_and_loses_its_claims_after_the_lease(url):
    ready, child = SPAWN.Pipe(duplex=False)
    holder = SPAWN.Process(target=hold, args=(url, ["a", "b", "c"], 1.5, child))
    holder.start()
    assert ready.recv() == 3
    with Store(url) as store:
        time.sleep(2)  # longer than the lease: the holder renews it
        assert claimed(store, ["a", "b", "c"], 8) == set()
        holder.kill()
        holder.join(30)
        killed = time.monotonic()
        assert answered(store, ["a", "b", "c"]) == ["a"]
        while not (taken := claimed(store, ["a", "b", "c"], 8)):
            assert time.monotonic() - killed < 10
            time.sleep(0.05)
        assert taken == {"b", "c"}


# what is refused


def read(url):
    with Store(url) as store:
        answered(store, ["k0"])
        return store.stats()


def refused(url):
    with pytest.raises(UserError) as caught:
        read(url)
    return str(caught.value)


def test_a_file_that_is_no_database_is_refused_with_the_remedy(file_url, tmp_path):
    (tmp_path / "judgments.sqlite").write_text("not a database " * 1000)
    assert f"{tmp_path}" in refused(file_url)
    assert "JUDGMENTS_URL" in refused(file_url)


def test_a_file_cut_short_is_refused_with_the_remedy(file_url, tmp_path):
    file = tmp_path / "judgments.sqlite"
    with Store(file_url) as store:
        store.add([answer(f"k{i}", text="x" * 200) for i in range(500)])
    assert not file.with_name(f"{file.name}-wal").exists()  # all of it is in the file
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "Restore it from a copy" in refused(file_url)


def test_another_programs_database_is_refused_and_its_tables_stay(file_url, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "judgments.sqlite")) as foreign:
        foreign.execute("create table recipes (name)")
        assert "recipes" in refused(file_url)
        assert "JUDGMENTS_URL" in refused(file_url)
        names = foreign.execute("select name from sqlite_master").fetchall()
    assert names == [("recipes",)]


def test_a_store_of_a_newer_version_is_refused_with_both_versions(file_url, tmp_path):
    Store(file_url).__exit__(None, None, None)
    with contextlib.closing(sqlite3.connect(tmp_path / "judgments.sqlite")) as newer, newer:
        newer.execute("update omniopd_judgments set version = version + 1")
    assert "version 4, wanted 3" in refused(file_url)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mysql://me:hunter2@host/db",
        "nonsense://me:hunter2@host/db",
        "postgresql+asyncpg://me:hunter2@127.0.0.1:1/db",
        "postgresql+asyncpg://me@127.0.0.1:1/db?password=hunter2",
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_refusal_never_shows_the_password(url):
    with pytest.raises(UserError) as caught:
        Store(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_default_store_is_in_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("JUDGMENTS_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache?"))
    with Store(judgments.url()) as store:
        store.add([answer("a")])
    assert [p.name for p in (tmp_path / "my cache?" / "omniopd").iterdir()] == [
        "judgments-2.sqlite"
    ]
    monkeypatch.setenv("JUDGMENTS_URL", "sqlite:////elsewhere")
    assert judgments.url() == "sqlite:////elsewhere"


@pytest.mark.parametrize(
    "url", ["postgresql://me:x@h:hunter2/db", "postgresql+foo://me:hunter2@h/db", "sqlite://"]
)
def test_a_url_that_cannot_serve_is_refused_without_its_password(url):
    with pytest.raises(UserError) as caught:
        Store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None or "hunter2" not in str(caught.value.__cause__)
