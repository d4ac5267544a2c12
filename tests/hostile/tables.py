"""Tables of stages that are not what the stage before wrote."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import schemas
from tests.hostile.project import key, put
from tests.hostile.row import Row

SAMPLES, LENGTH = 3, 6  # of the miniature
NAMES = ("a-0", "b-0")
Values = dict[str, Any]


def _rollout(name: str) -> Values:
    ids = list(range(1, 11))
    return {
        "rollout_id": name, "prompt_id": name[0], "sample": 0, "round": 1, "prompt_token_ids": [1, 2],
        "token_ids": ids, "logprobs": [-0.5] * 10, "entropies": [0.5] * 10, "text": "abcdefghij",
        "finish_reason": "length", "reward": 1.0,
    }  # fmt: skip


def _fork(name: str) -> Values:
    return {
        "rollout_id": name, "fork": 0, "position": 2, "length": LENGTH, "entropy": 0.5,
        "prefix_text": "ab", "chunk_text": "cdefgh", "ended": False,
    }  # fmt: skip


def _answer(name: str, sample: int) -> Values:
    return {
        "rollout_id": name, "position": 2, "sample": sample, "teacher": "carries", "text": "cdefgx",
        "ended": False, "finish_reason": "length", "model_returned": "m", "prompt_tokens": 4,
        "completion_tokens": 6, "request_key": "k", "token_ids": [3, 4],
    }  # fmt: skip


def _score(name: str, sample: int) -> Values:
    return {
        "rollout_id": name, "position": 2, "sample": sample, "teacher": "carries", "metric": "edit",
        "similarity": 0.5,
    }  # fmt: skip


SCHEMAS = {
    "rollouts": schemas.ROLLOUTS, "forks": schemas.FORKS, "answers": schemas.ANSWERS,
    "scores": schemas.SCORES,
}  # fmt: skip
GOOD = {
    "rollouts": [_rollout(name) for name in NAMES],
    "forks": [_fork(name) for name in NAMES],
    "answers": [_answer(name, i) for name in NAMES for i in range(SAMPLES)],
    "scores": [_score(name, i) for name in NAMES for i in range(SAMPLES)],
}


def _command(stage: str) -> list[str]:
    read = {"prior": ("rollouts", "forks", "scores"), "score": ("forks", "answers", "rollouts")}
    paths = [part for name in read[stage] for part in (f"--{name}", f"{name}.parquet")]
    cell = key(stage)
    return [f"stages.{stage}", "--cell", cell, *paths, "--out", f"data/{stage}/{cell}"]


def _written(folder: Path) -> None:
    put(folder)
    for name, schema in SCHEMAS.items():
        found = pa.Table.from_pylist(GOOD[name], schema=schema)
        pq.write_table(found, folder / f"{name}.parquet")


def file(name: str, table: str, change: Callable[[Path], Any], found: str) -> Row:
    """Another file in the place of a table."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        _written(folder)
        change(folder / f"{table}.parquet")
        return _command("score" if table == "answers" else "prior")

    return Row(f"tables: {name}", make, found)


def rows(name: str, table: str, edit: Callable[[list[Values]], Any], found: str) -> Row:
    """Other rows in a table; its types follow from the values where they differ."""

    def change(path: Path) -> None:
        values = copy.deepcopy(GOOD[table])
        edit(values)
        schema = pa.schema([field.with_nullable(True) for field in SCHEMAS[table]])
        pq.write_table(pa.Table.from_pylist(values, schema=schema), path)

    return file(name, table, change, found)


def column(name: str, table: str, change: Callable[[pa.Table], pa.Table], found: str) -> Row:
    return file(name, table, lambda p: pq.write_table(change(pq.read_table(p)), p), found)


def every(**values: Any) -> Callable[[list[Values]], None]:
    return lambda rows: [row.update(values) for row in rows] and None


def first(**values: Any) -> Callable[[list[Values]], None]:
    return lambda rows: rows[0].update(values)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def no_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def renamed(table: pa.Table) -> pa.Table:
    return table.rename_columns(["id" if n == "rollout_id" else n for n in table.column_names])


ROWS = [
    Row("tables: good", lambda folder, _: (_written(folder), _command("prior"))[1], ""),
    Row("tables: good answers", lambda folder, _: (_written(folder), _command("score"))[1], ""),
    file("not there", "forks", lambda path: path.unlink(), "forks.parquet: no such table"),
    file("a folder", "forks", folder, "forks.parquet: no such table"),
    file("a link to itself", "forks", itself, "forks.parquet"),
    file("empty", "forks", lambda p: p.write_bytes(b""), "forks.parquet: not a whole Parquet"),
    file("four bytes", "forks", lambda p: p.write_bytes(b"PAR1"), "not a whole Parquet file"),
    file("text", "forks", lambda p: p.write_text("rollout_id,fork\n"), "not a whole Parquet file"),
    file("nothing but zeros", "scores", lambda p: p.write_bytes(bytes(9999)), "scores.parquet: not a whole"),
    file("cut off", "rollouts", cut, "rollouts.parquet: not a whole Parquet file"),
    file("zeros in its middle", "rollouts", no_middle, "rollouts.parquet"),
    file("another table", "forks", lambda p: p.write_bytes((p.parent / "rollouts.parquet").read_bytes()), r"missing \['fork'"),
    column("a column less", "scores", lambda t: t.drop(["similarity"]), r"missing \['similarity'\]"),
    column("a column more", "scores", lambda t: t.append_column("x", t["sample"]), r"unexpected \['x'\]"),
    column("a column of another name", "rollouts", renamed, r"missing \['rollout_id'\], unexpected \['id'\]"),
    column("a column twice", "scores", lambda t: t.append_column("sample", t["sample"]), "sample"),
    column("text for a number", "scores", lambda t: t.set_column(5, "similarity", t["similarity"].cast(pa.string())), "similarity is string, wanted double"),
    column("a number for text", "forks", lambda t: t.set_column(0, "rollout_id", pa.array([1, 2])), "rollout_id is int64, wanted string"),
    column("a number for a list", "rollouts", lambda t: t.set_column(5, "token_ids", pa.array([1, 2])), "token_ids is int64, wanted list"),
    column("numbers too large", "forks", lambda t: t.set_column(2, "position", pa.array([2**40, 2])), "forks.parquet.*1099511627776"),
    rows("no text where text must be", "forks", first(rollout_id=None), "forks.parquet.*rollout_id|forks.parquet.*null"),
    rows("no number where one must be", "scores", first(similarity=None), "scores.parquet.*null|similarity"),
    rows("no list where one must be", "rollouts", first(logprobs=None), "rollouts.parquet.*null|logprobs"),
    rows("a hole in a list", "rollouts", first(logprobs=[None, -0.5] * 5), "logprobs of a-0: found None"),
    rows("a similarity of NaN", "scores", first(similarity=float("nan")), "similarities from nan"),
    rows("a similarity of inf", "scores", first(similarity=float("inf")), "similarities from 0.5 to inf"),
    rows("a similarity above one", "scores", every(similarity=1.5), "similarities from 1.5 to 1.5, wanted 0 to 1"),
    rows("a similarity below zero", "scores", every(similarity=-1.0), "similarities from -1.0 to -1.0, wanted"),
    rows("log-probabilities of NaN", "rollouts", first(logprobs=[float("nan")] * 10), "logprobs of a-0: found nan, wanted"),
    rows("fewer log-probabilities than tokens", "rollouts", first(logprobs=[-0.5]), "chunk from 2 to 8 of a-0 leaves its 1 tokens"),
    rows("a fork behind the end", "forks", first(position=9), "a-0"),
    rows("a fork before the beginning", "forks", first(position=-1), "a-0"),
    rows("a chunk of no length", "forks", first(length=0), "a-0"),
    rows("a chunk of length below zero", "forks", first(length=-3), "a-0"),
    rows("a fork of no response", "forks", first(rollout_id="z"), "z is not among the rollouts"),
    rows("forks in another order", "forks", lambda r: r.reverse(), "b-0|a-0"),
    rows("a fork twice", "forks", lambda r: r.insert(1, r[0]), "a-0"),
    rows("no forks", "forks", lambda r: r.clear(), "a-0 is not among the forks"),
    rows("no responses", "rollouts", lambda r: r.clear(), "a-0 is not among the rollouts"),
    rows("a score less", "scores", lambda r: r.pop(), r"\('b-0', 2\) has 2 scores, wanted 3"),
    rows("a score more", "scores", lambda r: r.append({**r[-1], "sample": 3}), "b-0"),
    rows("a sample twice", "scores", lambda r: r[1].update(sample=0), r"has the samples \[0, 0, 2\], wanted"),
    rows("scores of another position", "scores", every(position=3), "a-0"),
    rows("no answers", "answers", lambda r: r.clear(), "a-0"),
    rows("an answer less", "answers", lambda r: r.pop(), "b-0.*has 2 continuations, wanted"),
    rows("an answer twice", "answers", lambda r: r[1].update(sample=0), "a-0.*has 3 continuations, wanted"),
    rows("an answer of no fork", "answers", lambda r: r[0].update(position=7), "is no fork"),
]  # fmt: skip
