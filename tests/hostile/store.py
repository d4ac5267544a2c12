"""The judgment store: its URL and file, what is imported into it, and the environment."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.judgments import archive
from pipeline.judgments.store import Store
from tests.answers import sound
from tests.hostile.row import Row

STORE = r"^(judgments|new)\.sqlite"
Change = Callable[[pa.Table], pa.Table]


def filled(file: Path) -> None:
    with Store(f"sqlite:///{file}") as store:
        store.add([sound(i) for i in range(3)])


def url(
    name: str, value: str, found: str, *words: str, make: Callable[[Path], Any] = lambda f: f
) -> Row:
    def made(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        make(folder)
        patch.setenv("JUDGMENTS_URL", value)
        return ["omniopd", "judgments", *(words or ("stats",))]

    return Row(f"store: {name}", made, found, STORE if not found else r"sqlite-(wal|shm)$")


def home(name: str, found: str, **environment: str | None) -> Row:
    """No JUDGMENTS_URL, and such an environment."""

    def made(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        (folder / "file").write_text("x")
        for variable, value in {
            "JUDGMENTS_URL": None,
            "XDG_CACHE_HOME": None,
            **environment,
        }.items():
            patch.delenv(variable, raising=False)
            if value is not None:
                patch.setenv(variable, value.replace("FOLDER", str(folder)))
        return ["omniopd", "judgments", "stats"]

    return Row(f"environment: {name}", made, found, r"^home/" if not found else r"$^")


def imported(name: str, change: Callable[[Path], Any], found: str) -> Row:
    """Of an export of three answers, into an empty store."""

    def made(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        filled(folder / "from.sqlite")
        with Store(f"sqlite:///{folder / 'from.sqlite'}") as store:
            archive.export(store, folder / "a.parquet")
        change(folder / "a.parquet")
        return ["omniopd", "judgments", "import", "a.parquet"]

    return Row(f"import: {name}", made, found)


def column(name: str, changed: str, value: Any, found: str) -> Row:
    """A column of another value, in every row."""

    def change(path: Path) -> None:
        table = pq.read_table(path)
        at = table.column_names.index(changed)
        values = pa.array([value] * len(table), None if value is None else pa.scalar(value).type)
        pq.write_table(table.set_column(at, changed, values), path)

    return imported(name, change, found)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def another(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("create table contacts (name text)")
    database.close()


def newer(file: Path) -> None:
    filled(file)
    with sqlite3.connect(file) as database:
        table = database.execute(
            "select name from sqlite_master where sql like '%version%'"
        ).fetchone()
        database.execute(f"update {table[0]} set version = 99")
    database.close()


def damaged(file: Path) -> None:
    filled(file)
    data = bytearray(file.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    file.write_bytes(data)


def for_reading(folder: Path) -> None:
    """A store that its reader has no right to write."""
    filled(folder / "judgments.sqlite")
    for file in folder.glob("judgments.sqlite*"):
        file.chmod(0o444)
    folder.chmod(0o555)


def there(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "judgments.sqlite").write_bytes(content)


HERE = "sqlite:///judgments.sqlite"
ROWS = [
    url("new", "sqlite:///new.sqlite", ""),
    url("empty file", HERE, "", make=there(b"")),
    url("no-right to write, looked into", HERE, "", make=for_reading),
    url("no-right to write, verified", HERE, "", "verify", make=for_reading),
    url("no-right to write, tidied", HERE, "a file that this process may only read", "gc", make=for_reading),
    url("a word", "judgments", "JUDGMENTS_URL is not a database URL"),
    url("a path", "/tmp/judgments.sqlite", "JUDGMENTS_URL is not a database URL"),
    url("a URL with a secret in it", "://user:hunter2@x", "JUDGMENTS_URL is not a database URL"),
    url("another database", "mysql://user:hunter2@127.0.0.1/x", "JUDGMENTS_URL: found mysql"),
    url("a website", "http://127.0.0.1:9/x", "JUDGMENTS_URL"),
    url("in memory", "sqlite://", "found a store in memory, wanted a file"),
    url("in memory by name", "sqlite:///:memory:", "found a store in memory"),
    url("a port of letters", "postgresql://user@127.0.0.1:abc/x", "JUDGMENTS_URL is not a database URL"),
    url("a port of nobody", "postgresql://user:hunter2@127.0.0.1:9/x", r"judgments at postgresql\+psycopg://user:\*\*\*@127.0.0.1:9/x"),
    url("control characters", "sqlite:///a\x1b[31m\n.sqlite/x/", "JUDGMENTS_URL: found control characters, wanted none"),
    url("a driver that is not there", "sqlite+nosuch:///x.sqlite", "JUDGMENTS_URL: found sqlite.nosuch, wanted sqlite"),
    url("a folder", "sqlite:///.", r"judgments at sqlite:///\."),
    url("below a file", "sqlite:///judgments.sqlite/x.sqlite", "judgments.sqlite", make=there(b"x")),
    url("a name of 5,000 letters", "sqlite:///" + "x" * 5000, "File name too long|unable to open"),
    url("text", HERE, "judgments at .*file is not a database", make=there(b"not a database at all" * 99)),
    url("zeros", HERE, "judgments at .*not a database", make=there(bytes(9999))),
    url("another program's", HERE, "not a judgment store, it holds", make=lambda f: another(f / "judgments.sqlite")),
    url("of a later version", HERE, "version 99, wanted", make=lambda f: newer(f / "judgments.sqlite")),
    url("damaged", HERE, "judgments at .*", "verify", make=lambda f: damaged(f / "judgments.sqlite")),
    url("no-right to read", HERE, "judgments.sqlite", make=lambda f: (filled(f / "judgments.sqlite"), (f / "judgments.sqlite").chmod(0))),
    url("merged from nothing", HERE, "no such file", "merge", "sqlite:///gone.sqlite", make=lambda f: filled(f / "judgments.sqlite")),
    url("merged from a word", HERE, "merge: its argument is no URL", "merge", "gone"),
    url("exported to a folder", HERE, "found a folder, wanted a file", "export", ".", make=lambda f: filled(f / "judgments.sqlite")),
    url("exported below a file", HERE, "File exists|Not a directory|could not be written", "export", "judgments.sqlite/x.parquet", make=lambda f: filled(f / "judgments.sqlite")),
    url("exported without nobody", HERE, r"--without: found \['nobody'\], wanted one of", "export", "x.parquet", "--without", "nobody"),
    home("a home of one's own", "", HOME="FOLDER/home"),
    home("a home that does not exist and cannot", "JUDGMENTS_URL: not set, and found /proc/nobody", HOME="/proc/nobody"),
    home("a home that is a file", "JUDGMENTS_URL: not set, and found .*file", HOME="FOLDER/file"),
    home("a cache that cannot be", "JUDGMENTS_URL: not set, and found /proc/x", XDG_CACHE_HOME="/proc/x"),
    imported("good", lambda path: path, ""),
    imported("not there", lambda path: path.unlink(), "a.parquet: no such table"),
    imported("a folder", lambda path: (path.unlink(), path.mkdir()), "a.parquet: no such table"),
    imported("empty", lambda path: path.write_bytes(b""), "a.parquet: not a whole Parquet"),
    imported("text", lambda path: path.write_text("key,text\n"), "a.parquet: not a whole Parquet"),
    imported("cut off", cut, "a.parquet: not a whole Parquet"),
    imported("another table", lambda p: pq.write_table(pa.table({"x": [1]}), p), r"a.parquet: wrong table; missing \['key'"),
    column("other texts", "text", "changed", "a.parquet: the answer .* checksum"),
    column("other keys", "key", "0" * 64, "a.parquet: the answer 000000000000.*key"),
    column("keys that are none", "key", "\x1b[31m", "a.parquet: the answer"),
    column("samplers that are no JSON", "sampler", "{", "key is not the hash"),
    column("samplers of a number", "sampler", "3", "key is not the hash"),
    column("samplers of 9,000 lists", "sampler", "[" * 9000, "key is not the hash"),
    column("prices of NaN", "usd", float("nan"), "a number"),
    column("times of inf", "created_at", float("inf"), "a number"),
    column("reasons of their own", "finish_reason", "eos", "damaged"),
    column("text for a number", "sample", "one", "column sample is string, wanted int32"),
    column("numbers too large", "sample", 2**40, "a.parquet: Integer value"),
    column("nothing for text", "text", None, "a.parquet: column text is null|a.parquet.*text"),
]  # fmt: skip
