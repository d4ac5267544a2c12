"""dvc.lock, dvc.yaml and plan.yaml that a merge, an editor or a full disk has damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.project import TEXT, key, planned, put
from tests.hostile.row import Row

LOCK = """schema: '2.0'
stages:
  old@c11111111:
    cmd: python -m stages.old
    outs:
    - path: data/old/c11111111/x.parquet
      hash: md5
      md5: 0123456789abcdef0123456789abcdef
      size: 3
"""


def lock(name: str, content: str | bytes, found: str, command: str = "plan") -> Row:
    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "dvc.lock").write_bytes(data)
        return ["omniopd", command]

    return Row(f"dvc.lock: {name}", make, found)


def plan(name: str, content: str | bytes, found: str) -> Row:
    """A stage reads its cell."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "plan.yaml").write_bytes(data)
        cell = key("forks")
        paths = ("--rollouts", "r.parquet", "--tokenizer", "t.json", "--out", "data/forks")
        return ["stages.forks", "--cell", cell, *paths]

    return Row(f"plan.yaml: {name}", make, found)


def command(
    name: str, make: Callable[[Path], Any], words: list[str], found: str, writes: str = r"$^"
) -> Row:
    def made(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        make(folder)
        return ["omniopd", *words]

    return Row(f"plan: {name}", made, found, writes)


def broken(cell: str) -> str:
    """The plan with a line of a cell that is none."""
    return planned().replace(f"    {cell}:\n", f"    {cell}:\n      params: {{[\n", 1)


ROWS = [
    lock("not there but for its schema", "schema: '2.0'\nstages: {}\n", ""),
    lock("without stages", "schema: '2.0'\n", ""),
    lock("empty", "", "dvc.lock: found nothing, wanted"),
    lock("empty in a run", "", "dvc.lock: found nothing, wanted", "repro"),
    lock("empty in a flow", "", "dvc.lock: found nothing, wanted", "run"),
    lock("blanks", " \n\n", "dvc.lock: found nothing"),
    lock("a conflict", f"<<<<<<< HEAD\n{LOCK}=======\n{LOCK}>>>>>>> main\n", "dvc.lock, line 1: found '<<<<<<< HEAD'.*conflict"),
    lock("a conflict in its middle", LOCK + "<<<<<<< HEAD\n=======\n>>>>>>> x\n", "dvc.lock, line 10.*conflict"),
    lock("cut off", LOCK[:-60] + " [", "dvc.lock"),
    lock("a list", "- a\n", r"dvc.lock: found \['a'\]"),
    lock("a word", "stages", "dvc.lock: found 'stages'"),
    lock("another schema", LOCK.replace("2.0", "9.0"), "dvc.lock: found .*9.0"),
    lock("no schema", LOCK.replace("schema: '2.0'\n", ""), "dvc.lock: found .*wanted schema"),
    lock("stages of a list", "schema: '2.0'\nstages: [a]\n", "dvc.lock: found .*wanted schema"),
    lock("a stage of null", "schema: '2.0'\nstages: {a@b: }\n", "dvc.lock: a@b: found None"),
    lock("a stage of a word", "schema: '2.0'\nstages: {a@b: c}\n", "dvc.lock: a@b: found 'c'"),
    lock("outs of a word", "schema: '2.0'\nstages: {a@b: {outs: c}}\n", "dvc.lock: a@b: found"),
    lock("an out without md5", "schema: '2.0'\nstages: {a@b: {outs: [{path: c}]}}\n", "wanted outs with"),
    lock("an out of a number", "schema: '2.0'\nstages: {a@b: {outs: [{path: c, md5: 1}]}}\n", "wanted outs with"),
    lock("an out outside", LOCK.replace("data/old/c11111111/x", "../../x"), r"dvc.lock: old@c11111111: found .*'\.\./\.\./x"),
    lock("an absolute out", LOCK.replace("data/old/c11111111/x", "/etc/x"), "dvc.lock: old@c11111111: found .*'/etc/x"),
    lock("a key twice", LOCK + "schema: '2.0'\n", 'duplicate key "schema"'),
    lock("latin-1", LOCK.replace("old@", "öl@").encode("latin-1"), "dvc.lock, line .*UTF-8"),
    lock("nul bytes", bytes(300), "dvc.lock.*x0000"),
    lock("3,000 nested lists", "a: " + "[" * 900, "dvc.lock"),
    plan("empty", "", "plan.yaml: found nothing, wanted"),
    plan("a list", "- a\n", r"plan.yaml: found \['a'\]"),
    plan("cells of a word", "cells: x\n", "plan.yaml: has no forks cell"),
    plan("a group of a word", "cells: {forks: x}\n", "plan.yaml: has no forks cell"),
    plan("another plan", "cells: {forks: {}}\n", "plan.yaml: has no forks cell"),
    plan("a cell that is broken", broken(key("forks")), "plan.yaml, line .*not YAML"),
    plan("a cell of a word", f"cells: {{forks: {{{key('forks')}: x}}}}\n", "plan.yaml: .*wanted|plan.yaml: forks"),
    plan("a cell without params", f"cells: {{forks: {{{key('forks')}: {{a: b}}}}}}\n", "plan.yaml: forks"),
    plan("a cell of other params", f"cells: {{forks: {{{key('forks')}: {{params: {{x: 1}}}}}}}}\n", "plan.yaml: forks"),
    plan("latin-1", "# ö\n".encode("latin-1"), "plan.yaml, line 1.*UTF-8"),
    command("no plan yet", lambda f: (f / "plan.yaml").unlink(), ["plan", "--check"], "plan.yaml does not exist"),
    command("a plan of other params", lambda f: (f / "plan.yaml").write_text("cells: {}"), ["show", "base"], "plan.yaml is not what"),
    command("a plan that is no text", lambda f: (f / "plan.yaml").write_bytes(b"\xff\xfe"), ["show", "base"], "plan.yaml is not what"),
    command("a folder in its place", lambda f: ((f / "plan.yaml").unlink(), (f / "plan.yaml").mkdir()), ["plan", "--check"], "plan.yaml does not exist"),
    command("no dvc.yaml", lambda f: (f / "plan.yaml").unlink(), ["plan"], "dvc stage list --name-only` failed: ERROR: you are not inside of a DVC"),
    command("a device that is not there", lambda f: (f / "params.yaml").write_text(TEXT.replace("device: cpu", "device: cuda:99")), ["plan"], "runtime.device: found 'cuda:99', wanted a device"),
    command("vLLM where there is none", lambda f: (f / "params.yaml").write_text(TEXT.replace("engine: hf", "engine: vllm")), ["plan"], "engine vllm: found no package vllm, wanted it"),
    command("a data folder that is a file", lambda f: (f / "data").write_text("x"), ["plan"], "data.*'(File exists|Not a directory)'"),
]  # fmt: skip
