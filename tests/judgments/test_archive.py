import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipeline.core.errors import UserError
from pipeline.data import schemas, tables
from pipeline.judgments import archive
from pipeline.judgments.ledger import Entry
from pipeline.judgments.opened import CHUNK
from pipeline.judgments.rows import packed
from pipeline.judgments.schema import ANSWERS, BATCHES, SAMPLE_BITS
from pipeline.judgments.store import Batch, Store
from pipeline.judgments.sums import checksum
from tests.answers import answer, claimed, sound

DAY = 24 * 3600.0
OMNIOPD = [sys.executable, "-c", "from pipeline.commands.app import main; main()", "judgments"]
ODD = [
    "\x00",
    "a\x00\\0\\\\\x00b",
    "\\frac{1}{2}",
    "na\u00efve \u65e5\u672c \u0639\u0631\u0628\u064a",
    "e\u0301 is not \u00e9",  # nothing is normalised
    "\U0001f9ee\u200d\ufeff\uffff\U0010ffff",
    "\r\n\t\u2028\u2029\x1b[0m",
    "",
]


def varied():
    """Answers of several providers and kinds, each under its own key."""
    odd = [sound(i, text=text, token_ids=None) for i, text in enumerate(ODD)]
    return [
        *odd,
        sound(20, provider="anthropic", failure="refusal", usd=0.1 + 0.2),
        sound(21, provider="openai", ended=True, finish_reason="stop", seed_sent=None),
        sound(21, provider="openai", limit=50, created_at=1e9 / 3),
        sound(22, token_ids=()),
    ]


def contents(url):
    with Store(url) as store:
        return [found for chunk in store.rows.ordered() for found in chunk]


def filled(url, answers):
    with Store(url) as store:
        store.add(answers)
    return url


def exported(url, path):
    with Store(url) as store:
        archive.export(store, path)
    return path


def omniopd(url, *words):
    environment = os.environ | {"JUDGMENTS_URL": url}
    return subprocess.run([*OMNIOPD, *words], env=environment, capture_output=True, text=True)


def refused(url, *words):
    """The one line of a command that refuses."""
    found = omniopd(url, *words)
    assert found.returncode != 0
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    return found.stderr


def rewrite(path, row, **changes):
    """Change columns of one row of an export."""
    records = pq.read_table(path).to_pylist()
    for name, value in changes.items():
        records[row][name] = value
    tables.write(pa.Table.from_pylist(records, schema=archive.SCHEMA), path, archive.SCHEMA)


SAMPLE = f"id & {(1 << SAMPLE_BITS) - 1}"  # of an answer, in SQL


def change(url, statement):
    """Change a SQLite store behind the program's back."""
    with contextlib.closing(sqlite3.connect(sa.make_url(url).database)) as file, file:
        file.execute(statement)


# to Parquet and back


@pytest.mark.team
def test_an_export_brings_equal_answers_to_the_other_database(urls, tmp_path):
    here, there = urls
    exported(filled(here, varied()), tmp_path / "a.parquet")
    with Store(there) as store:
        assert archive.import_(store, tmp_path / "a.parquet") == archive.Moved(12, 12)
    assert contents(there) == contents(here)
    assert {found.text for found in contents(there)} >= set(ODD)


@pytest.mark.team
def test_equal_stores_give_equal_bytes_whatever_the_database_and_the_order(urls, tmp_path):
    here, there = urls
    many = varied() + [sound(100 + i) for i in range(2 * CHUNK)]
    one = exported(filled(here, many), tmp_path / "one.parquet")
    for found in many[:20][::-1]:
        filled(there, [found])
    other = exported(filled(there, many[::-1]), tmp_path / "other.parquet")
    assert one.read_bytes() == other.read_bytes()
    assert tables.rows(one, archive.SCHEMA) == len(many)


def test_importing_twice_adds_nothing_and_an_answer_that_is_there_stays(url, tmp_path):
    path = exported(
        filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(0), sound(1)]), tmp_path / "a"
    )
    filled(url, [sound(0, text="mine")])
    with Store(url) as store:
        assert archive.import_(store, path) == archive.Moved(2, 1)
        before = contents(url)
        assert archive.import_(store, path) == archive.Moved(2, 0)
    assert contents(url) == before
    assert {found.text for found in before} == {"mine", "8+5=13,"}


def test_an_import_is_no_purchase(url, tmp_path):
    path = exported(
        filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(0, usd=2.0)]), tmp_path / "a"
    )
    with Store(url) as store:
        archive.import_(store, path)
        assert (store.stats().answers, store.stats().bought, store.stats().usd) == (1, 0, 0.0)


def test_an_export_leaves_out_the_providers_it_is_told_to(url, tmp_path):
    filled(url, varied())
    with Store(url) as store:
        assert archive.export(store, tmp_path / "a", without=["anthropic", "openai"]) == 9
        assert archive.export(store, tmp_path / "b", without=["nobody"]) == 12
    found = pq.read_table(tmp_path / "a")
    assert set(found["provider"].to_pylist()) == {"local"}


def test_an_empty_store_is_exported_and_imported(url, tmp_path):
    with Store(url) as store:
        assert archive.export(store, tmp_path / "a") == 0
        assert archive.import_(store, tmp_path / "a") == archive.Moved(0, 0)


DAMAGE = [
    ({"text": "8+5=14,"}, "its checksum is not that of its answer"),
    ({"token_ids": [4, 5, 7]}, "its checksum is not that of its answer"),
    ({"failure": "refusal"}, "its checksum is not that of its answer"),
    ({"checksum": "0" * 32}, "its checksum is not that of its answer"),
    ({"key": "0" * 64}, "its key is not the hash of its request"),
    ({"sample": 77}, "its key is not the hash of its request"),
    ({"model": "m2"}, "its key is not the hash of its request"),
    ({"sampler": "no JSON"}, "its key is not the hash of its request"),
    ({"sampler": "[]"}, "its key is not the hash of its request"),
    ({"usd": math.nan}, "its price or its time is not a number"),
    ({"created_at": math.inf}, "its price or its time is not a number"),
]


@pytest.mark.parametrize(("changes", "why"), DAMAGE, ids=[str(changes) for changes, _ in DAMAGE])
def test_an_export_with_one_damaged_row_is_refused_whole(url, tmp_path, changes, why):
    source = f"sqlite:///{tmp_path / 'other.sqlite'}"
    path = exported(filled(source, [sound(i) for i in range(CHUNK + 2)]), tmp_path / "a")
    rewrite(path, CHUNK + 1, **changes)
    with Store(url) as store, pytest.raises(UserError) as caught:
        archive.import_(store, path)
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert "Restore it from a copy" in str(caught.value)
    assert contents(url) == []


def test_a_finish_reason_that_contradicts_the_end_is_refused_though_its_checksum_fits(
    url, tmp_path
):
    path = exported(
        filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(0), sound(1)]), tmp_path / "a"
    )
    found = sound(0, finish_reason="stop")
    keys = pq.read_table(path)["key"].to_pylist()
    rewrite(path, keys.index(found.key), finish_reason="stop", checksum=checksum(found))
    with Store(url) as store, pytest.raises(UserError, match="finish reason contradicts its end"):
        archive.import_(store, path)
    assert contents(url) == []


# merge


@pytest.mark.team
def test_a_merge_adds_only_what_lacks(urls):
    here, there = urls
    filled(here, [sound(0, text="mine"), sound(1)])
    filled(there, [sound(0, text="theirs"), sound(2), sound(1, limit=50)])
    before = contents(there)
    with Store(here) as store, archive.source(there) as other:
        assert archive.merge(store, other) == archive.Moved(3, 2)
        assert archive.merge(store, other) == archive.Moved(3, 0)
    assert contents(there) == before
    assert {found.text for found in contents(here)} == {"mine", "8+5=13,"}
    assert len(contents(here)) == 4


def test_a_merge_from_a_damaged_store_is_refused_whole(url, tmp_path):
    damaged = filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(0), sound(1)])
    change(damaged, f"update answers set text = x'0078' where {SAMPLE} = 1")
    with (
        Store(url) as store,
        archive.source(damaged) as other,
        pytest.raises(UserError, match=r"other\.sqlite: .*checksum"),
    ):
        archive.merge(store, other)
    assert contents(url) == []


def test_a_merge_from_a_file_that_is_not_there_makes_none(tmp_path):
    missing = tmp_path / "missing.sqlite"
    with pytest.raises(UserError, match=r"missing\.sqlite: no such file"):
        archive.source(f"sqlite:///{missing}")
    assert not missing.exists()


# verify


def test_a_sound_store_is_verified_and_counted(url):
    with Store(filled(url, varied())) as store:
        assert archive.verify(store) == 12


@pytest.mark.parametrize(
    "damage",
    [
        f"answers set text = x'00382b353d31342c' where {SAMPLE} = 1",
        f"answers set text = x'ff' where {SAMPLE} = 1",
        f"answers set text = x'00ff' where {SAMPLE} = 1",
        f"answers set id = id + 76 where {SAMPLE} = 1",
        f"answers set token_ids = x'0104' where {SAMPLE} = 1",
        f"answers set token_ids = x'' where {SAMPLE} = 1",
        f"answers set token_ids = null where {SAMPLE} = 1",
        f"answers set outcome = 77 where {SAMPLE} = 1",
        f"answers set usd = 9e999 where {SAMPLE} = 1",
        f"answers set usd = 'much' where {SAMPLE} = 1",
        "prefixes set prompt = x'ff' where first_seed = 6",
        "prefixes set first_seed = 5 where first_seed = 6",
        "prefixes set token_limit = 9",
        "prefixes set settings = 77",
        "prefixes set answers = 2 where first_seed = 6",
        "settings set sampler = '{'",
        "settings set model = 'm2'",
        "settings set digest = x'00'",
        "outcomes set ended = 1",
        "outcomes set model_returned = cast(x'ff' as text)",
    ],
)
def test_verify_names_a_store_in_which_a_row_was_changed(file_url, damage):
    filled(file_url, [sound(0), sound(1)])
    change(file_url, f"update {damage}")
    with Store(file_url) as store, pytest.raises(UserError, match=r"judgments\.sqlite"):
        archive.verify(store)


def test_verify_names_an_answer_that_is_gone_and_one_that_has_no_prefix(file_url):
    filled(file_url, [sound(0), sound(1)])
    change(file_url, f"delete from answers where {SAMPLE} = 1")
    with Store(file_url) as store, pytest.raises(UserError, match="another number of answers"):
        archive.verify(store)
    change(file_url, "delete from prefixes")
    with Store(file_url) as store, pytest.raises(UserError, match="no prefix that is there"):
        archive.verify(store)


@pytest.mark.team
def test_verify_finds_a_row_that_was_changed_in_postgres(postgres):
    with Store(filled(postgres(), [sound(0), sound(1)])) as store:
        with store.database.writing() as connection:
            one = ANSWERS.update().where(ANSWERS.c.id.op("&")((1 << SAMPLE_BITS) - 1) == 1)
            connection.execute(one.values(text=packed.text("8+5=14,")))
        with pytest.raises(UserError, match="checksum") as caught:
            archive.verify(store)
    assert sound(1).key[:12] in str(caught.value)


def test_an_answer_under_a_key_that_is_not_its_own_is_refused(url):
    other = answer("a")._replace(key=answer("b").key)
    with Store(url) as store, pytest.raises(UserError, match="its key is not the hash"):
        store.add([answer("c"), other])
    assert contents(url) == []


def overwrite(url, where, data):
    file = Path(sa.make_url(url).database)
    old = file.read_bytes()
    file.write_bytes(old[:where] + data + old[where + len(data) :])


PAGE = (40960, b"\xaa" * 4096, "malformed")
FREE = (36, b"\x00\x00\x00\x07", "the file is damaged")  # the header's count of free pages


@pytest.mark.parametrize(("where", "data", "why"), [PAGE, FREE], ids=["page", "free"])
def test_verify_and_merge_refuse_a_damaged_file_in_one_line(file_url, tmp_path, where, data, why):
    filled(file_url, [sound(i, text="x" * 200) for i in range(200)])
    overwrite(file_url, where, data)
    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    assert why in refused(file_url, "verify")
    assert why in refused(other, "merge", file_url)
    assert contents(other) == []


# gc


def test_gc_removes_lapsed_claims_alone_and_never_an_answer(url):
    filled(url, varied())
    before = contents(url)
    with Store(url) as store, Store(url) as other:
        claimed(store, ["lapsed"], 8, lease=-1.0)
        claimed(store, ["gone"], 8, lease=3600.0)  # before a clock was set back
        claimed(store, ["held"], 8)
        store.enter(Entry(bought=2, usd=1.5))
        store.passed("teacher")
        assert archive.gc(store) == archive.Removed(claims=2, batches=0)
        assert archive.gc(store) == archive.Removed(claims=0, batches=0)
        assert claimed(other, ["lapsed", "held"], 8) == {"lapsed"}
        assert store.stats().usd == 1.5
        assert store.checked("teacher")
    assert contents(url) == before


def test_gc_forgets_batches_whose_results_no_provider_keeps(url):
    ages = {"old": 30.1, "kept": 29.0, "new": 0.0}
    with Store(url) as store:
        for name, days in ages.items():
            store.keep_batch("anthropic m", Batch(name, ("a",)))
            with store.database.writing() as connection:
                this = BATCHES.update().where(BATCHES.c.id == name)
                connection.execute(this.values(created_at=BATCHES.c.created_at - days * DAY))
        assert archive.gc(store) == archive.Removed(claims=0, batches=1)
        assert [batch.id for batch in store.open_batches("anthropic m")] == ["kept", "new"]


def test_gc_gives_the_space_of_a_sqlite_file_back(file_url, tmp_path):
    filled(file_url, [sound(0)])
    with Store(file_url) as store:
        claimed(store, [f"{i:064}" for i in range(5000)], 8, lease=-1.0)
    before = (tmp_path / "judgments.sqlite").stat().st_size
    with Store(file_url) as store:
        archive.gc(store)
    assert (tmp_path / "judgments.sqlite").stat().st_size < before / 4
    assert contents(file_url) == [sound(0)]


# stats


def test_stats_have_a_row_for_each_teacher_and_json_numbers(url):
    filled(url, varied())
    with Store(url) as store:
        store.enter(Entry(reused=3, misses=2, bought=1, requests=4, tokens=10**10, usd=0.25))
        found = json.loads(json.dumps(archive.stats(store), allow_nan=False))
    teachers = found.pop("teachers")
    assert found == {
        "answers": 12,
        "failures": 1,
        "bought": 1,
        "reused": 3,
        "misses": 2,
        "requests": 4,
        "tokens": 10**10,
        "usd": 0.25,
    }
    assert [(row["provider"], row["answers"], row["failures"]) for row in teachers] == [
        ("anthropic", 1, 1),
        ("local", 9, 0),
        ("openai", 2, 0),
    ]
    assert teachers[0]["usd"] == 0.1 + 0.2


# the commands


def test_the_commands_hand_a_store_on(url, tmp_path):
    filled(url, varied())
    there, path = f"sqlite:///{tmp_path / 'there.sqlite'}", str(tmp_path / "a.parquet")
    out = omniopd(url, "export", path, "--without", "openai", "--without", "anthropic")
    assert out.stdout == f"9 answers to {path}, 3 left out\n"
    assert omniopd(there, "import", path).stdout == "9 answers read, 9 of them new\n"
    assert omniopd(there, "merge", url).stdout == "12 answers read, 3 of them new\n"
    assert omniopd(there, "verify").stdout == "12 answers, all sound\n"
    assert omniopd(there, "gc").stdout == "removed: 0 lapsed claims, 0 old batches\n"
    assert contents(there) == contents(url)


def test_stats_as_json_are_finite_numbers(url):
    with Store(filled(url, varied())) as store:
        store.enter(Entry(reused=3, misses=2, tokens=25, usd=0.5))
    out = omniopd(url, "stats", "--json")
    found = json.loads(out.stdout)
    numbers = [found[name] for name in ("answers", "bought", "reused", "misses", "tokens", "usd")]
    assert numbers == [12, 0, 3, 2, 25, 0.5]
    assert all(math.isfinite(number) for number in numbers)


def test_stats_for_people_name_the_store_and_its_teachers(file_url):
    out = omniopd(filled(file_url, varied()), "stats").stdout
    assert out.startswith(file_url)
    assert "anthropic" in out


def test_the_import_of_a_damaged_row_is_refused_in_one_line(file_url, tmp_path):
    source = filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(0), sound(1)])
    path = exported(source, tmp_path / "a.parquet")
    rewrite(path, 1, text="8+5=14,")
    line = refused(file_url, "import", str(path))
    assert "a.parquet" in line
    assert "checksum" in line
    assert "Nothing was changed" in line
    assert contents(file_url) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_the_import_of_a_truncated_file_is_refused_in_one_line(file_url, tmp_path, share):
    source = filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(i) for i in range(50)])
    path = exported(source, tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "not a whole Parquet file" in refused(file_url, "import", str(path))
    assert contents(file_url) == []


def test_the_import_of_a_file_with_scribbled_pages_is_refused_in_one_line(file_url, tmp_path):
    source = filled(f"sqlite:///{tmp_path / 'other.sqlite'}", [sound(i) for i in range(50)])
    path = exported(source, tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    data[200:400] = b"\xaa" * 200
    path.write_bytes(data)
    assert "a.parquet" in refused(file_url, "import", str(path))
    assert contents(file_url) == []


def test_the_import_of_another_table_is_refused_with_its_columns(file_url, tmp_path):
    path = tmp_path / "scores.parquet"
    tables.write(schemas.SCORES.empty_table(), path, schemas.SCORES)
    line = refused(file_url, "import", str(path))
    assert "wrong table" in line
    assert "similarity" in line


def test_the_import_of_a_missing_file_is_refused_in_one_line(file_url, tmp_path):
    assert "no such table" in refused(file_url, "import", str(tmp_path / "missing.parquet"))


def test_a_merge_from_nowhere_is_refused_in_one_line(file_url, tmp_path):
    assert "no such file" in refused(file_url, "merge", f"sqlite:///{tmp_path / 'other.sqlite'}")
    assert "no URL of a store" in refused(file_url, "merge", "other.sqlite")


def test_a_damaged_row_is_refused_in_one_line_and_nothing_is_written(file_url, tmp_path):
    filled(file_url, [sound(i) for i in range(3)])
    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    for damage in ("text = x'0078'", "token_ids = x'05'"):
        change(file_url, f"update answers set {damage} where {SAMPLE} = 1")
        for line in (
            refused(file_url, "verify"),
            refused(other, "merge", file_url),
            refused(file_url, "export", str(tmp_path / "a.parquet")),
        ):
            assert "is damaged" in line
            assert "Restore it from a copy" in line
    assert contents(other) == []
    assert {path.name for path in tmp_path.iterdir()} == {"judgments.sqlite", "other.sqlite"}
