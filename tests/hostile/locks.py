"""dvc.lock, dvc.yaml and files of dag/ that a merge, an editor or a full disk has damaged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.project import TEXT, file, key, put
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


def cell(name: str, content: str | bytes, found: str) -> Row:
    """A stage reads its cell."""

    def make(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        data = content if isinstance(content, bytes) else content.encode()
        (folder / file("forks")).write_bytes(data)
        paths = ("--rollouts", "r.parquet", "--tokenizer", "t.json", "--out", "data/forks")
        return ["stages.forks", "--cell", key("forks"), *paths]

    return Row(f"a cell: {name}", make, found)


def command(
    name: str, make: Callable[[Path], Any], words: list[str], found: str, writes: str = r"$^"
) -> Row:
    def made(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        make(folder)
        return ["omniopd", *words]

    return Row(f"plan: {name}", made, found, writes)


def removed(folder: Path) -> Path:
    """The file of a cell, which is not there any more."""
    path = folder / file("forks")
    path.unlink()
    return path


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
    cell("empty", "", r"dag/.*\.yaml: found nothing, wanted"),
    cell("a list", "- a\n", r"dag/.*\.yaml: found \['a'\]"),
    cell("of another stage", "group: teach\n", "dag: has no forks cell"),
    cell("of no group", "params: {}\n", r"dag/.*\.yaml: found group None, wanted that of a cell"),
    cell("of a group of a list", "group: [forks]\n", r"dag/.*\.yaml: found group \['forks'\], wanted"),
    cell("broken", "group: forks\nparams: {[\n", r"dag/.*\.yaml, line .*not YAML"),
    cell("without params", "group: forks\na: b\n", r"dag/.*\.yaml: found .*wanted a cell as"),
    cell("of other params", "group: forks\nparams: {x: 1}\n", r"dag/.*\.yaml: found .*wanted a cell as"),
    cell("latin-1", "# ö\n".encode("latin-1"), r"dag/.*\.yaml, line 1.*UTF-8"),
    command("no plan yet", removed, ["plan", "--check"], r"dag/.*\.yaml does not exist"),
    command("a plan of other params", lambda f: (f / file("forks")).write_text("group: forks"), ["show", "base"], r"dag/.*\.yaml is not what"),
    command("a plan that is no text", lambda f: (f / file("forks")).write_bytes(b"\xff\xfe"), ["show", "base"], r"dag/.*\.yaml is not what"),
    command("a cell that the plan lacks", lambda f: (f / "dag/shared/seed-0/c12345678.yaml").write_text("group: forks"), ["plan", "--check"], r"dag/.*c12345678\.yaml is of another plan"),
    command("a folder in its place", lambda f: removed(f).mkdir(), ["plan", "--check"], r"dag/.*\.yaml does not exist"),
    command("no dvc.yaml", lambda f: (f / "dvc.yaml").unlink(), ["plan"], "found no .dvc and dvc.yaml, wanted a project"),
    command("no DVC", lambda f: (f / ".dvc").rmdir(), ["plan"], "found no .dvc and dvc.yaml, wanted a project"),
    command("a device that is not there", lambda f: (f / "params.yaml").write_text(TEXT.replace("device: cpu", "device: cuda:99")), ["plan"], "runtime.device: found 'cuda:99', wanted a device"),
    command("vLLM where there is none", lambda f: (f / "params.yaml").write_text(TEXT.replace("engine: hf", "engine: vllm")), ["plan"], "engine vllm: found no package vllm, wanted it"),
    command("a data folder that is a file", lambda f: (f / "data").write_text("x"), ["plan"], "data.*'(File exists|Not a directory)'"),
]  # fmt: skip
