"""How answers lie in a store: packed, beside those to the same prefix, counted and added up."""

import math
import multiprocessing
import random
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.judgments import archive, ledger
from pipeline.judgments.keys import canonical, plain
from pipeline.judgments.ledger import Entry
from pipeline.judgments.rows import lookup, packed, places
from pipeline.judgments.rows.named import Settings
from pipeline.judgments.schema import ANSWERS, PREFIXES, SAMPLE_BITS, TOTALS, request_columns
from pipeline.judgments.store import Store
from tests.answers import REQUEST, answer, sound

SPAWN = multiprocessing.get_context("spawn")

# packed


@pytest.mark.parametrize(
    ("text", "data"),
    [  # as stores hold them: a change here makes answers unreadable
        ("", b"\0"),
        ("8+5=13,", b"\x008+5=13,"),
        ("é\0", b"\0\xc3\xa9\0"),
        ("ab" * 40, bytes.fromhex("014b4c4aa42a0400")),
    ],
)
def test_a_text_is_packed_as_it_always_was(text, data):
    assert packed.unpacked_text(data) == text
    if not data.startswith(packed.DEFLATED):  # another release of zlib may find other matches
        assert packed.text(text) == data
    assert packed.unpacked_text(packed.text(text)) == text


@pytest.mark.parametrize(
    ("ids", "data"),
    [
        ((), b"\1"),
        ((0,), b"\1\0"),
        ((1, 255), b"\1\1\xff"),
        ((1, 256), b"\2\1\0\0\1"),
        ((1, 70000, 3), b"\3\1\x70\3\0\x11\0\0\1\0"),
        ((2**32 - 1,), b"\4\xff\xff\xff\xff"),
        ((2**32,), b"\0[4294967296]"),
        ((-1, 5), b"\0[-1, 5]"),
    ],
)
def test_token_ids_are_packed_as_they_always_were(ids, data):
    assert packed.ids(ids) == data
    assert packed.unpacked_ids(data) == ids


def test_many_token_ids_are_deflated_where_that_pays():
    draw = random.Random(0)
    alike = tuple(draw.choices(range(300), k=500))
    unlike = tuple(draw.choices(range(150_000), k=500))
    assert len(packed.ids(alike)) < 700 < 1000
    assert len(packed.ids(unlike)) <= 1501
    for ids in (alike, unlike):
        assert packed.unpacked_ids(packed.ids(ids)) == ids
    assert packed.ids(None) is packed.unpacked_ids(None) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x02abc", b"\0\xff", b"\1", b"\1\xff\xff", b"\1" + bytes(9)], ids=bytes.hex
)
def test_a_text_that_is_none_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"text|inflate|utf-8"):
        packed.unpacked_text(data)


@pytest.mark.parametrize(
    "data", [b"", b"\5", b"\x7f", b"\2a", b"\x81\xff\xff", b"\0{", b"\x80ab"], ids=bytes.hex
)
def test_token_ids_that_are_none_are_a_value_error(data):
    with pytest.raises(ValueError, match=r"token_ids|inflate|JSON|Expecting"):
        packed.unpacked_ids(data)


@pytest.mark.parametrize("prompt", ["", "p" * 64, "AB" * 32, "ab" * 31, "ab" * 33])
def test_a_prompt_that_is_no_hash_is_refused(store, prompt):
    with pytest.raises(UserError, match="breaks the table's rules"):
        store.add([answer("a", prompt=prompt)])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample": 7, "seed": 10**9},
        {"seed": None},
        {"seed": 0, "sample": 5},  # the seed of its sample 0 is below 0
        {"attempt": 3, "epoch": 2},
        {"model": 'quoted "m" \\ naïve \U0001f9ee', "provider": "a\tb"},
        {"sampler": {"stop": ["\n", "é"], "top_k": 20, "flag": True, "none": None}},
        {"sampler": {}},
    ],
    ids=str,
)
def test_the_key_of_a_place_is_that_of_its_request(store, changes):
    request = replace(REQUEST, **changes)
    asked = places.settings(request)
    keys = places.Keys(asked, bytes.fromhex(request.prompt_hash), request.attempt)
    assert keys.key(request.sample, request.seed) == request.key
    found = answer("a")._replace(**request_columns(request))
    store.add([found])
    assert list(store.find([request], 8)) == [found]
    assert [one for chunk in store.rows.stream() for one in chunk] == [found]


def test_settings_are_those_of_the_canonical_sampler():
    for sampler in ('{"top_p": 1, "temperature":1.0}', '{"temperature":1.0,"top_p":1.0}'):
        found = answer("a", sampler=sampler)
        text = canonical(plain(REQUEST.sampler)).decode()
        assert places.settings_of(found) == Settings("local", "m1", "completions", text, 0)


@pytest.mark.parametrize("sample", [-1, 1 << SAMPLE_BITS])
def test_a_sample_that_no_id_can_hold_is_refused(store, sample):
    request = replace(REQUEST, sample=sample, seed=None)
    with pytest.raises(UserError, match=f"sample {sample}: wanted 0 to"):
        store.add([answer("a")._replace(**request_columns(request))])


# where they lie


def prefix(name, count, start=0):
    for sample in range(start, count):
        request = replace(REQUEST, prompt=name, sample=sample, seed=1000 + sample)
        yield answer("a")._replace(**request_columns(request))


def test_answers_to_a_prefix_lie_together_whenever_they_came(url):
    names = [f"prompt {i}" for i in range(20)]
    with Store(url) as store:
        for start in (0, 4):  # N was raised meanwhile
            for name in names:
                store.add(list(prefix(name, start + 4, start)))
        with store.database.reading() as connection:
            found = connection.execute(sa.select(ANSWERS.c.id).order_by(ANSWERS.c.id)).scalars()
            counts = connection.execute(sa.select(PREFIXES.c.answers)).scalars().all()
            places_ = [places.parted(number) for number in found]
    assert [sample for _, sample in places_] == list(range(8)) * 20
    assert counts == [8] * 20


def test_a_look_up_scans_nothing(store):
    store.add(list(prefix("a", 8)))
    with store.database.reading() as connection:
        text = "EXPLAIN QUERY PLAN " + lookup.sqlite(2, lookup.FOUND)
        wanted = (0, b"x", 1, 0, 1, b"y", 2, 0)
        plan = [row[-1] for row in connection.exec_driver_sql(text, (*wanted, 1, 0, 8))]
    searched = [line for line in plan if line.startswith("SEARCH")]
    assert "COVERING INDEX ix_prefixes_place" in searched[0]
    assert "a USING INTEGER PRIMARY KEY" in searched[1]
    scanned = [line for line in plan if line.startswith("SCAN")]
    assert [line for line in scanned if line.endswith((" p", " a", "prefixes", "answers"))] == []


def test_a_budget_reads_the_total_and_not_the_ledger(store):
    statements = []
    store.enter(Entry(requests=1))
    sa.event.listen(
        store.database._engine,
        "before_cursor_execute",
        lambda *args: statements.append(args[2]),
    )
    assert store.spent().requests == 1
    assert ["entries" in text for text in statements if text.startswith("SELECT")] == [False]


def test_an_answer_of_the_benchmark_s_kind_takes_400_bytes_at_most(file_url, tmp_path):
    draw = random.Random(0)
    with Store(file_url) as store:
        store.adopt([answer("a")])
    empty = (tmp_path / "judgments.sqlite").stat().st_size  # every table and index has a page
    with Store(file_url) as store:
        for first in range(500):
            some = [
                found._replace(
                    text="".join(draw.choices("0123456789+= abcdefghij", k=200)),
                    token_ids=tuple(draw.choices(range(150_000), k=50)),
                    created_at=1.8e9 + draw.random(),
                )
                for found in prefix(f"prompt {first}", 8)
            ]
            store.adopt(some)
    assert ((tmp_path / "judgments.sqlite").stat().st_size - empty) / 4000 < 400


# what is counted


PAID = Entry(bought=2, requests=3, tokens=10, usd=0.1)


def buy(url, number, barrier):
    """Answers of its own, and answers that all add."""
    barrier.wait()
    with Store(url, f"project {number % 2}") as store:
        for i in range(25):
            own = list(prefix(f"{number} {i}", 2))
            shared = list(prefix(f"all {i % 5}", 4 + number))
            random.Random(i * number).shuffle(shared)
            store.add([*own, *shared], PAID)
            store.enter(Entry(reused=1))


def test_totals_and_counts_are_right_whoever_adds_at_once(url):
    barrier = SPAWN.Barrier(4)
    buyers = [SPAWN.Process(target=buy, args=(url, i, barrier)) for i in range(4)]
    for buyer in buyers:
        buyer.start()
    for buyer in buyers:
        buyer.join(300)
    assert [buyer.exitcode for buyer in buyers] == [0] * 4
    with Store(url, "project 1") as store:
        assert archive.verify(store) == store.stats().answers == 4 * 25 * 2 + 5 * 7
        spent = store.spent()
        assert (spent.reused, spent.bought, spent.requests, spent.tokens) == (50, 100, 150, 500)
        assert math.isclose(spent.usd, 5.0)
        with store.database.reading() as connection:
            assert ledger.disagreeing(connection) == []
            parts = connection.execute(sa.select(sa.func.count()).select_from(TOTALS)).scalar_one()
    assert 2 <= parts <= 4


def test_what_fails_adds_to_no_total_and_no_count(url):
    with Store(url, "mine") as store:
        store.add([sound(0)], PAID)
        with pytest.raises(UserError):
            store.add([sound(1), sound(2, text=None)], PAID)
        with pytest.raises(UserError):
            store.add([sound(3, usd=None)], PAID)
        assert store.spent() == PAID
        assert archive.verify(store) == 1


def test_an_answer_that_comes_again_is_counted_once_and_its_purchase_each_time(url):
    with Store(url, "mine") as store:
        for _ in range(3):
            store.add([*prefix("a", 4), *prefix("a", 2)], PAID)
        assert store.spent().requests == 9
        assert archive.verify(store) == 4
        assert store.adopt(list(prefix("a", 6))) == 2
        assert archive.verify(store) == 6
