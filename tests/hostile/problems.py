"""Files of problems, and of rollouts that another trainer made."""

import bz2
import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hostile.row import Row
from tests.locked import lock

KEY = "cmade"
Content = bytes | str | Callable[[Path], Any]
GOOD = '{"prompt": "1+1?"}\n{"prompt": "2+2?"}\n'
zipped = functools.partial(gzip.compress, mtime=0)


def line(**values: Any) -> str:
    return json.dumps(values) + "\n"


def _put(path: Path, content: Content) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _prepared(prepare: dict[str, Any]) -> list[str]:
    """Stage prepare, with a plan of this cell alone."""
    cell = {"params": {"prepare": prepare}, "rows": "x"}
    plan = {"cells": {"prepare-rows": {KEY: cell}}}
    Path("plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    lock(Path())
    return ["stages.prepare", "--cell", KEY, "--out", f"data/prepare/{KEY}"]


def prompts(name: str, file: str, content: Content, found: str, count: int = 1) -> Row:
    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        _put(folder / file, content)
        return _prepared({"task": "prompts", "file": file, "seed": 0, "train": count})

    return Row(f"prompts: {name}", make, found)


def problems(name: str, content: Content, found: str, **fields: Any) -> Row:
    """A set of task math; fields may be named instead of a format."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        _put(folder / "set.jsonl", content)
        named = fields or {"prompt": "q", "answer": "a"}
        one = {
            "file": "set.jsonl",
            "splits": ["train", "dev", "test"],
            "hub_split": "train",
            **named,
        }
        counts = {"train": 1, "dev": 1, "test": 1}
        values = {
            "task": "math",
            "seed": 0,
            "folder": ".",
            "instruction": "Go.",
            "sets": {"s": one},
        }
        return _prepared(values | counts)

    return Row(f"problems: {name}", make, found)


def rollouts(name: str, content: Content, found: str, file: str = "mine.jsonl", *more: str) -> Row:
    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        _put(folder / file, content)
        return ["omniopd", "import", file, "--student", "student", "--out", "audit", *more]

    return Row(f"rollouts: {name}", make, found)


def parquet(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_pylist(rows), path)


def twins(path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["prompt", "prompt"]), path)


def halved(path: Path) -> None:
    parquet([{"prompt": f"{i}?" * 50} for i in range(500)])(path)
    path.write_bytes(path.read_bytes()[:-200])


def no_text(path: Path) -> None:
    column = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": column}), path)


def unreadable(path: Path) -> None:
    path.write_text(GOOD)
    path.chmod(0)


def said(**changed: Any) -> str:
    """A rollout."""
    found = {"prompt": "1+1?", "text": "2", "finish_reason": "stop"} | changed
    return line(**{name: value for name, value in found.items() if value is not None})


BROKEN = [
    prompts("good", "x.jsonl", GOOD, ""),
    prompts("crlf", "x.jsonl", GOOD.replace("\n", "\r\n"), ""),
    prompts("bom", "x.jsonl", b"\xef\xbb\xbf" + GOOD.encode(), ""),
    prompts("no end of line", "x.jsonl", GOOD.rstrip(), ""),
    prompts("blank lines", "x.jsonl", "\n\n" + GOOD + "\n", ""),
    prompts("an array", "x.json", '[{"prompt": "1?"}]', ""),
    prompts("gzip", "x.jsonl.gz", zipped(GOOD.encode()), ""),
    prompts("every script", "x.jsonl", line(prompt="油 Öl \u202e 🦄 \\"), ""),
    prompts("repeats", "x.jsonl", GOOD + GOOD, ""),
    prompts("a number", "x.jsonl", line(prompt=7), ""),
    prompts("empty", "x.jsonl", "", "x.jsonl: found no row, wanted"),
    prompts("blanks", "x.jsonl", "\n \n", "found no row"),
    prompts("a broken line", "x.jsonl", GOOD + '{"prompt": ', "line 3: not JSON"),
    prompts("two objects a line", "x.jsonl", '{"prompt": "1"} {"prompt": "2"}\n', "line 1: not JSON"),
    prompts("single quotes", "x.jsonl", "{'prompt': '1'}\n", "line 1: not JSON"),
    prompts("a comma behind", "x.jsonl", '{"prompt": "1",}\n', "line 1: not JSON"),
    prompts("a list a line", "x.jsonl", "[1, 2]\n", "line 1: found list"),
    prompts("a number a line", "x.jsonl", "3\n", "line 1: found int"),
    prompts("null a line", "x.jsonl", "null\n", "line 1: found NoneType"),
    prompts("an array in lines", "x.jsonl", '[{"prompt": "1"},\n{"prompt": "2"}]\n', "beginning of an array"),
    prompts("NaN", "x.jsonl", '{"prompt": "1", "x": NaN}\n', "line 1: found NaN"),
    prompts("1e999", "x.jsonl", '{"prompt": "1", "x": 1e999}\n', "line 1: found 1e999"),
    prompts("5,000 digits", "x.jsonl", '{"prompt": ' + "9" * 5000 + "}\n", "line 1: .*digits"),
    prompts("a key twice", "x.jsonl", '{"prompt": "1", "prompt": "2"}\n', "'prompt' twice"),
    prompts("3,000 nested lists", "x.jsonl", '{"prompt": ' + "[" * 3000 + "]" * 3000 + "}\n", "nested|found"),
    prompts("200,000 nested lists", "x.jsonl", '{"prompt": ' + "[" * 200_000 + "]" * 200_000 + "}\n", "too deeply nested"),
    prompts("half a surrogate pair", "x.jsonl", '{"prompt": "a \\ud83d"}\n', "half of a surrogate"),
    prompts("a control character", "x.jsonl", '{"prompt": "a \x01"}\n', "line 1: not JSON"),
    prompts("latin-1", "x.jsonl", line(prompt="O").replace("O", "Öl").encode("latin-1"), "line 1: not UTF-8"),
    prompts("utf-16", "x.jsonl", GOOD.encode("utf-16"), "found UTF-16"),
    prompts("nul bytes", "x.jsonl", "\0" * 100, "zero bytes"),
    prompts("a conflict", "x.jsonl", "<<<<<<< HEAD\n" + GOOD, "line 1: not JSON"),
    prompts("a pointer of git lfs", "x.jsonl", "version https://git-lfs.github.com/spec/v1\noid x\n", "Git LFS"),
    prompts("html", "x.jsonl", "<!doctype html><title>404</title>", "line 1: not JSON"),
    prompts("csv", "x.csv", "prompt\n1?\n", "found '.csv', wanted"),
    prompts("no suffix", "x", GOOD, "found '', wanted"),
    prompts("gzip without its suffix", "x.jsonl", zipped(GOOD.encode()), "found gzip"),
    prompts("no gzip with its suffix", "x.jsonl.gz", GOOD, "not readable to its end"),
    prompts("gzip cut off", "x.jsonl.gz", zipped(GOOD.encode() * 99)[:-20], "not readable to its end|not JSON"),
    prompts("bzip2 as gzip", "x.jsonl.gz", bz2.compress(GOOD.encode()), "not readable"),
    prompts("parquet as jsonl", "x.jsonl", parquet([{"prompt": "1"}]), "found Parquet"),
    prompts("jsonl as parquet", "x.parquet", GOOD, "not a Parquet file"),
    prompts("an empty parquet", "x.parquet", "", "x.parquet"),
    prompts("a parquet cut off", "x.parquet", halved, "not a Parquet file, or not a whole"),
    prompts("a parquet of one name twice", "x.parquet", twins, "2 columns named 'prompt'"),
    prompts("a parquet of no text", "x.parquet", no_text, "x.parquet"),
    prompts("a parquet without rows", "x.parquet", lambda p: pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), p), "found no row"),
    prompts("a folder in its place", "x.jsonl", lambda path: path.mkdir(), "x.jsonl: found a folder without"),
    prompts("not there", "x.jsonl", lambda path: None, "x.jsonl: no such file"),
    prompts("a link to nothing", "x.jsonl", lambda path: path.symlink_to("gone"), "no such file"),
    prompts("a link to itself", "x.jsonl", lambda path: path.symlink_to(path), "x.jsonl"),
    prompts("no prompt", "x.jsonl", line(question="1?"), r"found the fields \['question'\], wanted"),
    prompts("a prompt of null", "x.jsonl", line(prompt=None), r"wanted 'messages' or 'prompt'|wanted 'prompt'"),
    prompts("a prompt of blanks", "x.jsonl", line(prompt=" \n"), r"prompt: found ' \\n', wanted text|prompt: found"),
    prompts("a prompt of true", "x.jsonl", line(prompt=True), "prompt: found True, wanted"),
    prompts("a prompt of an object", "x.jsonl", line(prompt={"a": 1}), r"prompt: found \{'a': 1\}"),
    prompts("messages of a word", "x.jsonl", line(messages="hi"), "messages"),
    prompts("messages of nothing", "x.jsonl", line(messages=[]), r"messages: found \[\]"),
    prompts("a role of its own", "x.jsonl", line(messages=[{"role": "tool", "content": "x"}]), "messages: found .*tool"),
    prompts("an assistant's message last", "x.jsonl", line(messages=[{"role": "assistant", "content": "x"}]), "a user's last"),
    prompts("content of parts", "x.jsonl", line(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages: found"),
    prompts("a message without content", "x.jsonl", line(messages=[{"role": "user"}]), "messages: found"),
    prompts("too few", "x.jsonl", GOOD, "prepare.train: found 9, wanted at most 2", 9),
    prompts("a prompt of a megabyte", "x.jsonl", line(prompt=True, x="x" * 1_000_000), "found True"),
]  # fmt: skip
SETS = [
    problems("good", "".join(line(q=f"{i}+1?", a=str(i + 1)) for i in range(5)), ""),
    problems("no answer", line(q="1+1?"), "line 1: found the fields"),
    problems("an answer of null", line(q="1+1?", a=None), "line 1: found the fields"),
    problems("an answer of blanks", line(q="1+1?", a=" "), "a: found ' '"),
    problems("an answer of a list", line(q="1+1?", a=["2"]), r"a: found \['2'\]"),
    problems("one problem with two answers", line(q="1+1?", a="2") + line(q="1+1?", a="3"), "golds '2'.*'3'"),
    problems("gsm8k without hashes", line(question="1+1?", answer="2"), "line 1", format="gsm8k"),
    problems("too few", line(q="1+1?", a="2"), "prepare.dev: found 1, wanted at most 0"),
]  # fmt: skip
ROLLOUTS = [
    rollouts("not there", lambda path: None, "mine.jsonl: no such file"),
    rollouts("no-right to read", unreadable, "mine.jsonl.*Permission denied"),
    rollouts("empty", "", "mine.jsonl: found no row"),
    rollouts("a broken line", said() + "{", "line 2: not JSON"),
    rollouts("no response", line(prompt="1?"), r"fields \['prompt'\], wanted"),
    rollouts("no reason to end", said(finish_reason=None), "wanted 'finish_reason'"),
    rollouts("a reason of its own", said(finish_reason="eos"), "finish_reason: found 'eos', wanted stop"),
    rollouts("a reward of text", said(reward="good"), "reward: found 'good', wanted a number"),
    rollouts("a reward of 400 digits", said(reward=10**400), "reward: found 1000"),
    rollouts("a reward of a list", said(reward=[1]), r"reward: found \[1\]"),
    rollouts("log-probabilities of text", said(logprobs=["a"]), r"logprobs: found \['a'\]"),
    rollouts("too few log-probabilities", said(token_ids=[1, 2], logprobs=[-1.0]), "logprobs: found 1, wanted one"),
    rollouts("token ids of text", said(token_ids="1 2"), "token_ids: found '1 2', wanted"),
    rollouts("token ids below zero", said(token_ids=[-1]), r"token_ids: found \[-1\], wanted"),
    rollouts("token ids of halves", said(token_ids=[1.5]), r"token_ids: found"),
    rollouts("an empty id", said(rollout_id=" "), "rollout_id: found ' '"),
    rollouts("an id of a list", said(rollout_id=[1]), r"rollout_id: found \[1\]"),
    rollouts("an id of true", said(rollout_id=True), "rollout_id: found True"),
    rollouts("one id twice", said(rollout_id="a") + said(rollout_id="a"), "rollout_id: found 'a', wanted a name that no other"),
    rollouts("a dump of another trainer", said(), "line 1|mine.jsonl", "mine.jsonl", "--format", "verl", "--response-limit", "9"),
    rollouts("a reason without a format", said(), "--finish-reason: found without --format", "mine.jsonl", "--finish-reason", "stop"),
]  # fmt: skip
ROWS = [*BROKEN, *SETS, *ROLLOUTS]
