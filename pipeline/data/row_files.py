"""Which files hold rows: kinds by suffix, folders of one kind, what `datasets` saved to disk."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, paragraph
from pipeline.data import arrow_rows, json_rows

Reader = Callable[[Path], Iterator[tuple[str, dict[str, Any]]]]

READERS: dict[str, Reader] = {
    ".jsonl": json_rows.lines,
    ".ndjson": json_rows.lines,
    ".json": json_rows.values,
    ".parquet": arrow_rows.parquet,
    ".arrow": arrow_rows.arrow,
    ".feather": arrow_rows.arrow,
}
IN_FOLDERS = (".jsonl", ".ndjson", ".parquet", ".arrow", ".feather")  # .json there describes others
WANTED = (
    f"{', '.join(READERS)} (JSON also with {', '.join(json_rows.CODECS)} behind), or a folder of "
    "such files of one kind or of datasets.save_to_disk"
)
TABLES = {".csv": "pandas.read_csv(PATH)", ".tsv": "pandas.read_csv(PATH, sep='\\t')"}
SPLITS = ("train", "test", "validation", "val", "valid", "dev", "eval")
SHARD = re.compile(r"(.+?)[-_]\d+(?:[-_]of[-_]\d+)?")  # train-00000-of-00002


def reader(path: Path) -> Reader:
    """The function that reads the rows of a file. Raises UserError where there is none."""
    inner, codec = _suffixes(path)
    read = READERS.get(inner)
    if read is None:
        if inner in TABLES:
            convert = f"{TABLES[inner]}.to_json('x.jsonl', orient='records', lines=True)"
            raise UserError(f"{path}: found {inner!r}, wanted {WANTED}. Convert it: {convert}.")
        raise UserError(f"{path}: found {path.suffix!r}, wanted {WANTED}. Convert or rename it.")
    if codec and read not in (json_rows.lines, json_rows.values):
        raise UserError(
            f"{path}: found {inner} compressed as {codec}, wanted {inner} as it is: it is read "
            "from both ends, and can be compressed inside. Decompress it."
        )
    return read


def _suffixes(path: Path) -> tuple[str, str]:
    """.jsonl and .gz of x.jsonl.gz; the second is empty where nothing is compressed."""
    last = path.suffix.lower()
    return (Path(path.stem).suffix.lower(), last) if last in json_rows.CODECS else (last, "")


def files(path: Path) -> list[Path]:
    """The files with rows: `path` itself, or those of a folder, by name. Raises UserError."""
    if path.is_file():
        reader(path)
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder. Correct the path, or put it there.")
    if (path / "dataset_dict.json").is_file():
        inner = sorted(x.name for x in path.iterdir() if x.is_dir())
        raise UserError(
            f"{path}: found several datasets, wanted one. Name one of its folders: {inner}."
        )
    if (path / "state.json").is_file():
        return _saved(path)
    return _alike(path)


def _saved(path: Path) -> list[Path]:
    """The files that `datasets` lists; cache-*.arrow, which `map` leaves there, is none of them."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = [path / x["filename"] for x in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}/state.json: not what datasets.save_to_disk writes ({error!r}). Save it again."
        ) from error
    gone = [x.name for x in files if not x.is_file()]
    if gone or not files:
        raise UserError(f"{path}: found no {gone or 'data files'}, which state.json names.")
    return files


def _alike(path: Path) -> list[Path]:
    files = [
        x
        for x in sorted(path.iterdir(), key=lambda x: x.name)
        if x.is_file() and not x.name.startswith((".", "_")) and _suffixes(x)[0] in IN_FOLDERS
    ]
    if not files:
        raise UserError(
            f"{path}: found a folder without a file of {', '.join(IN_FOLDERS)}, wanted a file, or "
            "a folder with some (.json only by its own path). Name the file."
        )
    if len(kinds := {reader(x) for x in files}) > 1:
        kinds_found = sorted({_suffixes(x)[0] for x in files})
        raise UserError(
            f"{path}: found files of {len(kinds)} kinds, {kinds_found}, wanted one kind. Name one "
            "file, or move the others away."
        )
    sets = _sets(x.name.partition(".")[0] for x in files)
    if len(sets) > 1:
        raise UserError(
            f"{path}: found files of several sets, {sorted(sets)}, wanted those of one. Name one "
            "file, or move one set to a folder of its own."
        )
    return files


def _sets(stems: Iterator[str]) -> set[str]:
    """The sets that these are shards or splits of. Reading two would train on what tests."""
    shards = [(stem, SHARD.fullmatch(stem)) for stem in stems]
    return {m[1] for _, m in shards if m} | {stem for stem, _ in shards if stem in SPLITS}


def sha256(path: Path) -> str:
    """Hash of a file's content; of a folder's names and contents, by name. Raises UserError."""
    try:
        if path.is_file():
            return _sha256(path)
        digest = hashlib.sha256()
        for one in sorted(files(path), key=lambda x: x.name):
            digest.update(f"{one.name}:{_sha256(one)};".encode())
    except OSError as error:
        raise UserError(paragraph(error)) from error
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
