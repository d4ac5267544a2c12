"""Command lines: names, paths and numbers that people mistype and shells mangle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.project import TEXT, put
from tests.hostile.row import Row

LONG = "x" * 5000
ESCAPE = "\x1b[2J\x07\u202e"
MODELS = {"anthropic": "claude-haiku-4-5", "google": "gemini-2.5-flash-lite"}


def words(
    name: str, found: str, *arguments: str, make: Callable[[Path], Any] = lambda folder: folder
) -> Row:
    def made(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        make(folder)
        return ["omniopd", *arguments]

    return Row(f"arguments: {name}", made, found)


def stage(name: str, found: str, *arguments: str) -> Row:
    def made(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
        put(folder)
        return ["stages.prepare", *arguments, "--out", "data/x"]

    return Row(f"arguments: {name}", made, found, r"$^")


def bought(name: str, found: str, command: str, kind: str, **teach: str) -> Row:
    """A teacher behind HTTP that cannot be asked as it stands; nothing may run before it is."""

    def made(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
        for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
            patch.delenv(variable, raising=False)
            if "key" in teach:
                patch.setenv(variable, "sk-canary")
        api = f"  api: {{kind: {kind}, model: {MODELS[kind]}}}\n"
        text = TEXT.replace("  carries: {kind", api + "  carries: {kind")
        text = text.replace("teacher: carries\n", "teacher: api\n")
        text = text.replace("continuation: completions", "continuation: instruct")
        put(folder, text.replace("  epoch: 0", "  epoch: 0\n" + teach.get("more", "")))
        return ["omniopd", command]

    return Row(f"before the rollouts: {name}", made, found)


def lines(folder: Path) -> None:
    (folder / "p.jsonl").write_text('{"prompt": "1+1?"}\n{"prompt": "2+2?"}\n')


AUDIT = ("audit", "--student", "student", "--prompts", "p.jsonl", "--count", "2")
ROWS = [
    words("no such command", "No such command 'nope'", "nope"),
    words("a near miss of a command", "No such command 'plam'", "plam"),
    words("a command of control characters", r"No such command '\\x1b", ESCAPE),
    words("a command of 5,000 letters", "No such command 'xxx", LONG),
    words("no such option", "No such option", "plan", "--chekc"),
    words("an option without its value", "requires an argument", "run", "--parallel"),
    words("a word for a number", "--parallel.*valid integer", "run", "--parallel", "two"),
    words("zero for a count", "parallel", "run", "--parallel", "0"),
    words("a number of 5,000 digits", "parallel", "run", "--parallel", "9" * 5000),
    words("an argument too many", "unexpected extra argument", "plan", "x"),
    words("an argument too few", "Missing argument", "show"),
    words("a choice that is none", "'zip' is not", "export", "omniopd", "--to", "zip", "--out", "x"),
    words("a cell that is not there", "'c00000000' is neither", "show", "c00000000"),
    words("an empty cell", "'' is neither", "show", ""),
    words("a cell of control characters", r"is neither", "show", ESCAPE),
    words("a cell of 5,000 letters", "is neither", "show", LONG),
    words("a profile that is not there", "profiles: no 'nobody'", "profile", "nobody"),
    words("a profile outside", r"profiles: no '\.\./params'", "profile", "../params"),
    words("a profile of a full path", "profiles: no '/etc/passwd'", "profile", "/etc/passwd"),
    words("a profile of control characters", "profiles: no", "profile", ESCAPE),
    words("a profile of 5,000 letters", "profiles: no|File name too long", "profile", LONG),
    words("an empty profile", "profiles: no ''", "profile", ""),
    words("a teacher that is not there", r"teachers: 'nobody' is not one of", "teacher", "check", "nobody"),
    words("a teacher that is local", "teachers.carries is a local checkpoint", "teacher", "check"),
    words("a teacher of control characters", "is not one of", "teacher", "check", ESCAPE),
    words("an arm that is not there", "'nobody' is neither an arm", "export", "nobody", "--to", "hf", "--out", "x"),
    words("a seed that is not there", "--seed", "export", "omniopd", "--to", "hf", "--out", "x", "--seed", "9"),
    words("a round that is not there", "--round", "export", "omniopd", "--to", "hf", "--out", "x", "--round", "9"),
    words("a round that has not run", r"data/.*(not|no such)", "export", "omniopd", "--to", "jsonl", "--out", "x"),
    words("a harness of nothing", "nobody", "harness", "nobody", "--tasks", "x"),
    words("a project without params", "params.yaml: not found", "plan", make=lambda f: (f / "params.yaml").unlink()),
    words("an estimate without params", "params.yaml: not found", "estimate", make=lambda f: (f / "params.yaml").unlink()),
    words("a device of no operations", "tflops", "estimate", "--tflops", "0"),
    words("a device of NaN", "tflops", "estimate", "--tflops", "nan"),
    words("a device that goes backwards", "gb.per.s", "estimate", "--gb-per-s", "-3"),
    words("an audit of nothing", "--prompts, --rollouts: found neither", "audit", "--student", "s", "--teacher", "t"),
    words("an audit of both", "found both, wanted one", *AUDIT, "--teacher", "t", "--rollouts", "x"),
    words("an audit without its file", "p.jsonl: no such file", *AUDIT, "--teacher", "t"),
    words("an audit of NaN dollars", "max.usd", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--max-usd", "nan", make=lines),
    words("an audit of prices below zero", "price", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--price", "-1", "1", make=lines),
    words("an audit at no temperature", "temperature", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--temperature", "nan", make=lines),
    words("an audit on a toaster", "device: found 'toaster'", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--device", "toaster", make=lines),
    words("an audit of no metric", "found 'bleu', wanted one of", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--metric", "bleu", make=lines),
    words("an audit of no provider", "provider", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--provider", "nobody", make=lines),
    words("an audit without a model", "APIConnectionError, wanted", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", make=lines),
    words("an audit with a key in its URL", "key", *AUDIT, "--teacher", "http://user:hunter2@127.0.0.1:9/v1", "--model", "m", make=lines),
    words("an audit of a model of control characters", r"teachers.audited.model: found '.x1b", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", ESCAPE, make=lines),
    words("an audit by vLLM where there is none", "engine vllm: found no package vllm, wanted", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--engine", "vllm", make=lines),
    words("an audit to a file", "p.jsonl", *AUDIT, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", "--out", "p.jsonl", make=lines),
    words("a student that is not installed", "wanted PACKAGE/FILE.gguf", *AUDIT, "--student", "no such/x.gguf", "--teacher", "http://127.0.0.1:9/v1", "--model", "m", make=lines),
    words("a student of control characters", r"student.init.name: found '.x1b", *AUDIT, "--student", ESCAPE, "--teacher", "http://127.0.0.1:9/v1", "--model", "m", make=lines),
    words("a student of nothing", "found no .*safetensors, wanted", *AUDIT, "--student", "", "--teacher", "http://127.0.0.1:9/v1", "--model", "m", make=lines),
    stage("a stage of a cell that is not planned", "has no prepare cell 'c00000000'", "--cell", "c00000000"),
    stage("a stage of a cell outside", r"has no prepare cell '\.\./x'", "--cell", "../x"),
    stage("a stage of a cell that is a pattern", r"has no prepare cell '\.\*'", "--cell", ".*"),
    stage("a stage of a cell of control characters", "has no prepare cell", "--cell", ESCAPE),
    bought("no key", "anthropic needs a key, and the environment variable ANTHROPIC_API_KEY is not set", "run", "anthropic"),
    bought("no key in repro", "google needs a key, and the environment variable", "repro", "google"),
    bought("no terms", "teach.accept_terms: anthropic is not in it", "run", "anthropic", key="y"),
    bought("no terms in repro", "teach.accept_terms: anthropic is not in it", "repro", "anthropic", key="y"),
    bought("terms of another", "teach.accept_terms: anthropic is not in it", "run", "anthropic", key="y", more="  accept_terms: google\n"),
]  # fmt: skip
