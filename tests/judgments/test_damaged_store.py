"""A flipped bit or an edited row of a judgment store: seen when read, bought again when told."""

import contextlib
import random
import sqlite3
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.commands import judgments
from pipeline.core.errors import UserError
from pipeline.judgments import archive, repair, sums
from pipeline.judgments.schema import (
    COLUMNS,
    JUDGMENTS,
    NAMES,
    Judgment,
    checksum,
    from_row,
    stored,
    to_row,
)
from pipeline.judgments.store import Store
from tests.answers import sound

KEY = sound(1).key
CHANGES = {  # of each column, by a person or a disk
    "key": "z" * 64,
    "token_limit": 7,
    "provider": "lokal",
    "model": "m2",
    "prompt": "q",
    "continuation": "instruct",
    "sampler": "{}",
    "sample": 77,
    "seed": 8,
    "attempt": 1,
    "epoch": 1,
    "text": "8+5=14,",
    "token_ids": "[4, 5, 7]",
    "ended": 1,
    "finish_reason": "stop",
    "model_returned": "m3",
    "prompt_tokens": 11,
    "completion_tokens": 4,
    "failure": "refusal",
    "requested_n": 2,
    "seed_sent": 4,
    "usd": 0.5,
    "created_at": 2.5,
    "checksum": "0" * 32,
}
BOUGHT = ("requested_n", "seed_sent", "usd", "created_at")  # which earlier checksums leave out


def change(url, statement, *values):
    """Change a SQLite store behind the program's back."""
    with contextlib.closing(sqlite3.connect(sa.make_url(url).database)) as file, file:
        assert file.execute(statement, values).rowcount == 1


def edit(url, column, value):
    change(url, f"update judgments set {column} = ? where key = ?", value, KEY)


def filled(url, earlier=False):
    """A store of three answers; with checksums of an earlier version, if so."""
    with Store(url) as store:
        store.add([sound(i, usd=0.25) for i in range(3)])
        if earlier:
            with store.database.writing() as connection:
                for i in range(3):
                    this = JUDGMENTS.update().where(JUDGMENTS.c.key == sound(i).key)
                    old = sums.earlier(stored(sound(i)))
                    connection.execute(this.values(checksum=old))
    return url


def found(url, limit=8):
    with Store(url) as store:
        return [one.key for one in store.find([sound(i).key for i in range(3)], limit)]


def test_an_answer_has_its_columns_in_the_order_of_the_table():
    assert tuple(field.name for field in fields(Judgment)) == COLUMNS
    assert set(CHANGES) == set(NAMES)


def test_a_checksum_of_an_earlier_version_is_the_published_one():
    # computed at the commit before, whose stores people have
    assert sums.earlier(stored(sound(1))) == "14ec78d5e5c87c7bf505921042605812"
    odd = sound(2, token_ids=None, text="é\ud7ff\x00", failure="r")
    assert sums.earlier(stored(odd)) == "21cda63a8e94d3edfee3c76ab4739f01"


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "earlier"])
def test_sound_rows_of_every_version_are_found(url, earlier):
    assert len(found(filled(url, earlier))) == 3


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "earlier"])
@pytest.mark.parametrize("column", [name for name in NAMES if name != "key"])
def test_a_look_up_refuses_a_row_in_which_any_column_was_changed(file_url, column, earlier):
    edit(filled(file_url, earlier), column, CHANGES[column])
    if earlier and column in BOUGHT:
        assert len(found(file_url)) == 3
        return
    with pytest.raises(UserError) as caught:
        found(file_url)
    assert KEY[:12] in str(caught.value)
    assert "judgments.sqlite" in str(caught.value)
    assert "omniopd judgments repair" in str(caught.value)


def test_a_changed_row_of_postgres_is_refused(postgres):
    with Store(filled(postgres())) as store:
        with store.database.writing() as connection:
            this = JUDGMENTS.update().where(JUDGMENTS.c.key == KEY)
            connection.execute(this.values(requested_n=2))
        with pytest.raises(UserError, match=KEY[:12]):
            list(store.find([KEY], 8))
        done = repair.repair(store)
        assert [bad.row[0] for bad in done.damaged] == [KEY]
        assert repair.drop(store, done.damaged) == 1
        assert list(store.find([KEY], 8)) == []


def test_a_flipped_bit_of_any_byte_of_a_row_is_seen_and_put_back(file_url):
    draw = random.Random(0)
    before = [to_row(sound(i, usd=0.25)) for i in range(3)]
    for name in NAMES:
        filled(file_url)
        row = next(row for row in before if row["key"] == KEY)
        other = draw.choice(list(sums._flips(row[name]))) if row[name] is not None else None
        if other is None:
            continue
        with Store(file_url) as store:
            values = [other if name == column else row[column] for column in NAMES]
            with pytest.raises((ValueError, TypeError), match=f"a bit of {name} |{name} are no"):
                from_row(values)
            if isinstance(other, str):  # a byte that is no UTF-8 any more lies there as it is
                data = other.encode("utf-8", "surrogateescape")
                statement = f"update judgments set {name} = cast(? as text) where key = ?"
                change(file_url, statement, data, KEY)
            else:
                edit(file_url, name, other)
            done = repair.repair(store)
            assert ([bad.row[0] for bad in done.damaged], len(done.repaired)) == ([], 1), name
            assert sorted(found(file_url)) == sorted(row["key"] for row in before)
            kept = [row for chunk in store.stream() for row in chunk]
            assert {checksum(one) for one, _ in kept} == {row["checksum"] for row in before}


def test_text_that_is_no_utf_8_any_more_is_named_by_its_key(file_url):
    filled(file_url)
    change(file_url, "update judgments set text = cast(x'ff38' as text) where key = ?", KEY)
    with pytest.raises(UserError, match=KEY[:12]):
        found(file_url)


def test_repair_says_what_it_costs_and_buys_nothing_until_it_is_told(file_url, monkeypatch, capsys):
    monkeypatch.setenv("JUDGMENTS_URL", file_url)
    edit(filled(file_url), "text", "another answer")
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
    assert capsys.readouterr().out.endswith("2 answers, 0 repaired\n")


def test_a_damaged_answer_is_not_for_sale(file_url):
    edit(filled(file_url), "text", "another answer")
    with Store(file_url) as store:
        assert store.claims.claim([KEY], 8) == set()


@pytest.mark.parametrize("copy", [0, 1])
def test_a_key_that_is_another_in_table_or_index_is_repaired_for_nothing(file_url, copy):
    path = Path(sa.make_url(filled(file_url)).database)
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data.startswith(KEY.encode(), i)]
    assert len(places) == 2
    data[places[copy]] ^= 1
    path.write_bytes(data)
    with Store(file_url) as store:
        for look in (lambda: store.claims.claim([KEY], 8), lambda: archive.verify(store)):
            with pytest.raises(UserError, match=r"damaged.* `omniopd judgments repair`"):
                look()
        done = repair.repair(store)
        assert done.reindexed
        assert done.damaged == []
        assert archive.verify(store) == 3
    assert KEY in found(file_url)


def test_whichever_bit_of_the_file_is_flipped_no_answer_is_another_or_bought_again(file_url):
    with Store(file_url) as store:
        store.add(answers := [sound(i, text=f"{i}+5={i + 5}, " * 9) for i in range(100)])
    path = Path(sa.make_url(file_url).database)
    data, keys, refused = path.read_bytes(), [one.key for one in answers], 0
    for seed in range(150):
        bit = random.Random(seed).randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            with Store(file_url) as store:
                found = list(store.find(keys, 8))
                assert set(found) <= set(answers), bit
                assert len(found) == 100 or not store.claims.claim(keys, 8), bit
        except UserError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("byte", [b"\xcc", b"X"])
def test_a_store_whose_schema_is_damaged_is_restored_not_bought_anew(file_url, byte):
    with Store(file_url) as store:
        store.add([sound(1)])
    path = Path(sa.make_url(file_url).database)
    data = path.read_bytes()
    assert data.count(b"CREATE TABLE judgments") == 1
    path.write_bytes(data.replace(b"CREATE TABLE judgments", b"CRE" + byte + b"TE TABLE judgments"))
    with pytest.raises(UserError, match=r"damaged|malformed") as told, Store(file_url):
        pass
    assert "Restore it from a copy" in str(told.value)
    assert "JUDGMENTS_URL" not in str(told.value)
