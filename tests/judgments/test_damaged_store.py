"""A flipped bit or an edited row of a judgment store: seen when read, bought again when told."""

import contextlib
import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.commands import judgments
from pipeline.core.errors import UserError
from pipeline.judgments import archive, repair, sums
from pipeline.judgments.ledger import Entry
from pipeline.judgments.rows.named import Outcome, Settings
from pipeline.judgments.schema import ANSWERS, OUTCOMES, PREFIXES, SAMPLE_BITS, SETTINGS
from pipeline.judgments.store import Store
from tests.answers import REQUEST, answer, asked, sound

SAMPLE = f"id & {(1 << SAMPLE_BITS) - 1}"  # of an answer, in SQL
ONE = f"where {SAMPLE} = 1"
# of each column, by a person or a disk
CHANGES = {
    "answers": {
        "id": f"id + {5 << SAMPLE_BITS}",
        "outcome": "2",
        "prompt_tokens": "11",
        "completion_tokens": "4",
        "seed_sent": "4",
        "usd": "0.5",
        "created_at": "2.5",
        "text": "x'00382b353d31342c'",
        "token_ids": "x'01040507'",
        "checksum": "x'00'",
    },
    "prefixes": {
        "id": "id + 5",
        "settings": "2",
        "prompt": "x'00'",
        "attempt": "1",
        "first_seed": "8",
        "token_limit": "7",
        "answers": "2",
    },
    "settings": {
        "id": "77",
        "digest": "x'00'",
        "provider": "'lokal'",
        "model": "'m2'",
        "continuation": "'instruct'",
        "sampler": "'{}'",
        "epoch": "1",
    },
    "outcomes": {
        "id": "77",
        "digest": "x'00'",
        "ended": "1",
        "finish_reason": "'stop'",
        "model_returned": "'m3'",
        "failure": "'refusal'",
        "requested_n": "2",
    },
}
EVERY = [(table, column) for table, columns in CHANGES.items() for column in columns]


def asked_for(i):
    return replace(REQUEST, sample=i, seed=100 + i)


def one(i, **changes):
    """Answers to one prefix, whose seeds are consecutive."""
    request = asked_for(i)
    found = sound(0)._replace(key=request.key, sample=i, seed=request.seed, **changes)
    assert found.expected_key() == found.key
    return found


KEY = one(1).key
BEFORE = [one(i, usd=0.25) for i in range(3)]


def change(url, statement, *values):
    """Change a SQLite store behind the program's back."""
    with contextlib.closing(sqlite3.connect(sa.make_url(url).database)) as file, file:
        return file.execute(statement, values).rowcount


def edit(url, text):
    """Another text in the answer KEY."""
    assert change(url, f"update answers set text = ? {ONE}", b"\0" + text.encode()) == 1


def filled(url):
    with Store(url) as store:
        store.add(BEFORE)
        store.add([answer("other", failure="refusal")])  # of other settings, with another outcome
    return url


def found(url, limit=8):
    with Store(url) as store:
        return [one.key for one in store.find(map(asked_for, range(3)), limit)]


def test_every_column_of_every_table_of_answers_is_changed_here():
    for table in (ANSWERS, PREFIXES, SETTINGS, OUTCOMES):
        assert list(CHANGES[table.name]) == [column.name for column in table.columns]
    assert [*CHANGES["settings"]][2:] == list(Settings._fields)
    assert [*CHANGES["outcomes"]][2:] == list(Outcome._fields)


def test_a_checksum_of_an_earlier_version_is_the_published_one():
    # computed at the commit before, whose stores people have
    assert sums.earlier(sums.stored(sound(1))) == "14ec78d5e5c87c7bf505921042605812"
    odd = sound(2, token_ids=None, text="é\ud7ff\x00", failure="r")
    assert sums.earlier(sums.stored(odd)) == "21cda63a8e94d3edfee3c76ab4739f01"


# what answers are found by: whoever changes these, in the tables and their indexes at once, hides
# answers until the store is verified, as it was with keys; a disk does not change both alike
FOUND_BY = {("prefixes", "prompt"), ("prefixes", "settings"), ("settings", "id")}


@pytest.mark.parametrize(("table", "column"), EVERY)
def test_whatever_is_changed_no_answer_is_another_or_bought_again(file_url, table, column):
    """A look-up refuses the answer, or misses it, and then nothing is sold."""
    filled(file_url)
    where = {"answers": ONE, "prefixes": "where answers = 3"}.get(table, "where id = 1")
    assert change(file_url, f"update {table} set {column} = {CHANGES[table][column]} {where}") == 1
    with contextlib.suppress(UserError), Store(file_url) as store:
        got = list(store.find(map(asked_for, range(3)), 8))
        assert set(got) <= set(BEFORE)
        if len(got) < len(BEFORE) and (table, column) not in FOUND_BY:
            assert store.claims.claim(map(asked_for, range(3)), 8) == "refused"
    with Store(file_url) as store, pytest.raises(UserError, match="judgments repair"):
        archive.verify(store)


@pytest.mark.parametrize("column", list(CHANGES["answers"])[1:])
def test_a_look_up_refuses_a_row_in_which_any_column_was_changed(file_url, column):
    filled(file_url)
    change(file_url, f"update answers set {column} = {CHANGES['answers'][column]} {ONE}")
    with pytest.raises(UserError) as caught:
        found(file_url)
    assert KEY[:12] in str(caught.value)
    assert "judgments.sqlite" in str(caught.value)
    assert "omniopd judgments repair" in str(caught.value)


def test_a_changed_row_of_postgres_is_refused(postgres):
    with Store(filled(postgres())) as store:
        with store.database.writing() as connection:
            connection.exec_driver_sql(f"update answers set prompt_tokens = 5 {ONE}")
        with pytest.raises(UserError, match=KEY[:12]):
            list(store.find([asked_for(1)], 8))
        done = repair.repair(store)
        assert [bad.name[:12] for bad in done.damaged] == [KEY[:12]]
        assert repair.drop(store, done.damaged) == 1
        assert list(store.find([asked_for(1)], 8)) == []
        assert archive.verify(store) == 3
        assert store.claims.claim([asked_for(1)], 8) == {KEY}


FLIPPED = [
    *((ANSWERS, f"{SAMPLE} = 1", name) for name in CHANGES["answers"]),
    *((PREFIXES, "answers = 3", name) for name in CHANGES["prefixes"] if name != "id"),
    *((SETTINGS, "id = 1", name) for name in CHANGES["settings"] if name != "id"),
    *((OUTCOMES, "id = 1", name) for name in CHANGES["outcomes"] if name != "id"),
]


@pytest.mark.parametrize(("table", "where", "name"), FLIPPED, ids=lambda x: str(x))
def test_a_flipped_bit_of_any_column_is_put_back(file_url, table, where, name):
    draw = random.Random(str(name))
    filled(file_url)
    path = Path(sa.make_url(file_url).database)
    read = f"select {name} from {table.name} where {where}"
    with contextlib.closing(sqlite3.connect(path)) as file:
        ((value,),) = file.execute(read).fetchall()
    if isinstance(table.c[name].type, sa.Double):
        value = float(value)
    other = draw.choice(list(sums.flips(value))) if value is not None else None
    if other is None:
        return
    if isinstance(other, str):  # a byte that is no UTF-8 any more lies there as it is
        data = other.encode("utf-8", "surrogateescape")
        write = f"update {table.name} set {name} = cast(? as text) where {where}"
    else:
        data, write = other, f"update {table.name} set {name} = ? where {where}"
    assert change(file_url, write, data) == 1
    with Store(file_url) as store, pytest.raises(UserError):
        archive.verify(store)
    with Store(file_url) as store:
        done = repair.repair(store)
        assert done.damaged == []
        if table is ANSWERS:
            assert len(done.repaired) == 1
    with Store(file_url) as store:
        assert archive.verify(store) == 4
        assert list(store.find(map(asked_for, range(3)), 8)) == BEFORE


def test_text_that_is_no_utf_8_any_more_is_named_by_its_key(file_url):
    filled(file_url)
    change(file_url, f"update answers set text = x'00ff38' {ONE}")
    with pytest.raises(UserError, match=KEY[:12]):
        found(file_url)


def test_repair_says_what_it_costs_and_buys_nothing_until_it_is_told(file_url, monkeypatch, capsys):
    monkeypatch.setenv("JUDGMENTS_URL", file_url)
    edit(filled(file_url), "another answer")
    with pytest.raises(UserError, match=r"1 damaged answers cost \$0\.2500.*--drop-damaged"):
        judgments.repair(drop_damaged=False)
    assert f"damaged: {KEY[:12]} of local m1: its checksum" in capsys.readouterr().out
    with pytest.raises(UserError):
        found(file_url)
    judgments.repair(drop_damaged=True)
    assert "1 removed" in capsys.readouterr().out
    assert KEY not in found(file_url)
    assert len(found(file_url)) == 2
    judgments.repair(drop_damaged=False)
    assert capsys.readouterr().out.endswith("3 answers, 0 repaired\n")


def test_settings_that_cannot_be_repaired_take_their_answers_with_them_when_told(file_url):
    filled(file_url)
    change(file_url, "update settings set model = 'another one' where id = 1")
    with Store(file_url) as store:
        done = repair.repair(store)
        assert len(done.damaged) == 3
        assert repair.drop(store, done.damaged) == 3
        assert archive.verify(store) == 1
        assert store.claims.claim([asked_for(1)], 8) == {KEY}
        assert [x.key for x in store.find([asked("other")], 8)] == [asked("other").key]


def test_a_damaged_answer_is_not_for_sale(file_url):
    edit(filled(file_url), "another answer")
    with Store(file_url) as store, pytest.raises(UserError, match=KEY[:12]):
        store.claims.claim([asked_for(1)], 8)
    with Store(file_url) as store, pytest.raises(UserError, match=KEY[:12]):
        store.claims.claim([asked_for(5)], 8)  # nor is another to the same prefix


def test_an_answer_that_is_gone_is_missed_and_not_for_sale(file_url):
    filled(file_url)
    change(file_url, f"delete from answers {ONE}")
    with Store(file_url) as store:
        assert len(list(store.find(map(asked_for, range(3)), 8))) == 2
        with pytest.raises(UserError, match=r"found 2 answers to prompt .* wanted the 3 that"):
            store.claims.claim([asked_for(1)], 8)
        done = repair.repair(store)
        assert (done.recounted, done.damaged) == (1, [])
        assert store.claims.claim([asked_for(1)], 8) == {KEY}


@pytest.mark.parametrize("copy", [0, 1])
def test_a_prompt_that_is_another_in_table_or_index_is_repaired_for_nothing(file_url, copy):
    path = Path(sa.make_url(filled(file_url)).database)
    data, prompt = bytearray(path.read_bytes()), bytes.fromhex(asked_for(1).prompt_hash)
    places = [i for i in range(len(data)) if data.startswith(prompt, i)]
    assert len(places) == 2
    data[places[copy]] ^= 1
    path.write_bytes(data)
    with Store(file_url) as store:
        for look in (lambda: store.claims.claim([asked_for(1)], 8), lambda: archive.verify(store)):
            with pytest.raises(UserError, match=r"damaged.* `omniopd judgments repair`"):
                look()
        done = repair.repair(store)
        assert done.reindexed
        assert done.damaged == []
        assert archive.verify(store) == 4
    assert KEY in found(file_url)


def test_whichever_bit_of_the_file_is_flipped_no_answer_is_another_or_bought_again(file_url):
    requests = [replace(asked(f"prompt {i // 4}"), sample=i % 4, seed=i % 4) for i in range(400)]
    answers = [
        answer("", text=f"{i}+5={i + 5}, " * 9)._replace(
            key=request.key, prompt=request.prompt_hash, sample=request.sample, seed=request.seed
        )
        for i, request in enumerate(requests)
    ]
    with Store(file_url) as store:
        store.add(answers)
    path = Path(sa.make_url(file_url).database)
    data, refused = path.read_bytes(), 0
    for seed in range(300):
        bit = random.Random(seed).randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with Store(file_url) as store:
                found = list(store.find(requests, 8))
                assert set(found) <= set(answers), bit
                assert len(found) == 400 or not store.claims.claim(requests, 8), bit
        except UserError:
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("byte", [b"\xcc", b"X"])
def test_a_store_whose_schema_is_damaged_is_restored_not_bought_anew(file_url, byte):
    with Store(file_url) as store:
        store.add([sound(1)])
    path = Path(sa.make_url(file_url).database)
    data = path.read_bytes()
    assert data.count(b"CREATE TABLE answers") == 1
    path.write_bytes(data.replace(b"CREATE TABLE answers", b"CRE" + byte + b"TE TABLE answers"))
    with pytest.raises(UserError, match=r"damaged|malformed") as told, Store(file_url):
        pass
    assert "Restore it from a copy" in str(told.value)
    assert "JUDGMENTS_URL" not in str(told.value)


# totals


def test_a_total_that_is_not_the_sum_of_its_ledger_is_told_and_added_up_anew(url):
    with Store(url, "mine") as store, Store(url, "theirs") as other:
        store.add([answer("a")], Entry(bought=1, requests=2, tokens=9, usd=0.25))
        other.enter(Entry(requests=7, usd=1.0))
        before = store.spent()
        for damage in ("update totals set usd = usd + 0.001", "delete from totals"):
            with store.database.writing() as connection:
                connection.exec_driver_sql(f"{damage} where project = 'mine'")
            assert store.spent() != before
            with pytest.raises(UserError, match="total of mine, of 1 projects, is not the sum"):
                archive.verify(store)
            assert repair.repair(store).totals == ("mine",)
            assert store.spent() == before
            assert other.spent() == Entry(requests=7, usd=1.0)
            assert archive.verify(store) == 1
