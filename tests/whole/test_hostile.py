import ast
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.core import dag_names, errors
from pipeline.core.errors import UserError
from pipeline.engines.vllm import resident
from pipeline.judgments.ledger import Entry
from pipeline.judgments.store import Store
from pipeline.plan import expand, experiment
from pipeline.processes import fork_server
from pipeline.runner import preflight
from pipeline.runner.dag import plan_files
from tests.answers import sound, wanted
from tests.hostile import arguments, locks, params, problems, project, store, tables
from tests.hostile.row import as_nobody, faults, files, run
from tests.project import MINIATURE, ROOT


@pytest.fixture
def open_folder():
    """A folder that everybody may go into; pytest's own ones are closed to other users."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, folder / "project"):
            if path.is_dir():
                path.chmod(0o755)


AREAS = (params, problems, tables, locks, store, arguments)
ROWS = [row for area in AREAS for row in area.ROWS]


def test_the_table_has_at_least_200_rows_of_different_names():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 200


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_hostile_input_gives_one_paragraph_or_is_taken_right(row, open_folder, monkeypatch):
    monkeypatch.setenv("JUDGMENTS_URL", f"sqlite:///{open_folder / 'judgments.sqlite'}")
    folder = open_folder / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    command = row.make(folder, monkeypatch)
    before = files(folder)
    with as_nobody() if "no-right" in row.name else contextlib.nullcontext():
        done = run(command, monkeypatch)
    assert faults(row, done, before, files(folder)) == [], done.errors or done.output


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a\nb\t c \x1b[31m\u202e\x00\ud800."), r"a b c \x1b[31m\u202e\x00\ud800."),
        (UserError("Öl, 油, 🦄"), "Öl, 油, 🦄"),
        (PermissionError(13, "Permission denied", "x"), "x: found 'Permission denied', wanted the"),
        (OSError(28, "No space left on device"), "the system: found 'No space left on device', wa"),
        (OSError("told by a library"), "told by a library"),
    ],
)
def test_an_error_is_a_paragraph_that_moves_no_cursor(error, said):
    assert errors.paragraph(error).startswith(said)


def test_a_long_error_keeps_its_beginning_and_what_to_do():
    shown = errors.paragraph(UserError(f"params.yaml: found {'x' * 99_999}. Correct it."))
    assert len(shown) == errors.LONGEST
    assert shown.startswith("params.yaml: found xxx")
    assert shown.endswith("xxx. Correct it.")


def test_every_text_file_is_opened_as_utf_8():
    """ruff sees those of a path whose type it can tell."""
    wrong = []
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("stages/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


TEXTS = {"read_text", "write_text", "open", "fdopen", "TemporaryFile", "NamedTemporaryFile"}
OTHERS = {"os", "cells", "self", "order", "adapter", "pa", "tables"}  # whose method has such a name


def _opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text and leaves its encoding to the system."""
    name, _, method = ast.unparse(call.func).rpartition(".")
    owner = name.rpartition(".")[2]
    if method not in TEXTS or (owner in OTHERS and method != "fdopen"):
        return False
    if not name and method != "open":  # a function of ours
        return False
    if method.endswith("File") and not call.args:  # binary unless it is said
        return False
    modes = {x.value for x in call.args if isinstance(x, ast.Constant) and isinstance(x.value, str)}
    if any("b" in mode for mode in modes if set(mode) <= set("rwaxbt+")):
        return False
    return not {"encoding", None} & {x.arg for x in call.keywords}


def test_a_text_file_of_the_system_s_own_encoding_is_found():
    texts = ["path.read_text()", "open('x')", "(a / 'b').open('w')", "os.fdopen(3, 'w')"]
    others = ["path.read_bytes()", "open('x', 'rb')", "open('x', encoding='utf-8')", "os.open(x)"]
    calls = {text: ast.parse(text, mode="eval").body for text in [*texts, *others]}
    assert [text for text, call in calls.items() if _opens_text(call)] == texts


def test_files_are_utf_8_in_a_locale_that_knows_ascii_alone(tmp_path):
    project.put(tmp_path, project.TEXT + "öl: 油\n")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = (
        "import locale; from pipeline.commands.app import main; print(locale.getencoding()); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "--check"],
        cwd=tmp_path,
        env={**os.environ, **ascii_alone, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.stdout.split()[0] in (b"ANSI_X3.4-1968", b"ascii", b"US-ASCII")
    assert done.returncode == 2
    assert done.stderr == (
        rb"error: params.yaml: \xf6l: unknown key. Remove it or correct its name." + b"\n"
    )


def test_sockets_lie_in_another_folder_where_the_temporary_one_has_too_long_a_path(
    tmp_path, monkeypatch
):
    monkeypatch.delenv(fork_server.ENV, raising=False)
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    for serve in (fork_server.serving, resident.lending):
        with serve() as found:
            (address,) = found.values()
            assert Path(address).is_socket()
            assert not Path(address).is_relative_to(long)
        assert not Path(address).parent.exists()
    monkeypatch.setattr(fork_server, "SHORT", ("/nowhere",))
    for serve in (fork_server.serving, resident.lending):
        with serve() as found:
            assert found == {}  # stages start by themselves


def test_a_store_that_may_only_be_read_finds_answers_and_buys_none(open_folder):
    answers, url = [sound(i) for i in range(3)], f"sqlite:///{open_folder / 'j.sqlite'}"
    with Store(url) as opened:
        opened.add(answers)
    for file in open_folder.glob("j.sqlite*"):
        file.chmod(0o444)
    open_folder.chmod(0o555)
    with as_nobody(), Store(url, "project") as opened:
        assert list(opened.find(map(wanted, range(3)), 8)) == answers
        opened.enter(Entry(reused=3))  # what replay says before it looks at what is missing
        assert opened.spent() == Entry()
        with pytest.raises(UserError, match="a file that this process may only read, wanted one"):
            opened.claims.claim([wanted(7)], 8)
    assert [x.name for x in open_folder.iterdir()] == ["j.sqlite"]


@pytest.fixture
def engines():
    """An experiment that wants vLLM, which is not here, and its plan."""
    text = project.replaced("engine: hf", "engine: vllm")
    file = experiment.of(experiment.yaml_files.parsed(text, "params.yaml"), "params.yaml")
    return file, expand.expand(file)


def test_what_dvc_lock_says_is_done_needs_nothing_more(engines, monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    file, found = engines
    names = set(expand.upstream(found))
    with pytest.raises(UserError, match="found no package vllm"):
        preflight.check(file, found, lambda: names - {"rollout-vllm@" + key(found)}, False)
    preflight.check(file, found, lambda: names, False)


def key(found):
    return min(found["cells"]["rollout-vllm"])


def test_a_teacher_that_is_only_replayed_needs_no_key(tmp_path, monkeypatch):
    (row,) = (row for row in arguments.ROWS if row.name == "before the rollouts: no key")
    monkeypatch.chdir(tmp_path)
    row.make(tmp_path, monkeypatch)
    file = experiment.load()
    found = expand.expand(file)
    with pytest.raises(UserError, match="ANTHROPIC_API_KEY"):
        preflight.check(file, found, set, True)
    preflight.check(file, found, set, False)
    text = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("  epoch: 0", "  epoch: 0\n  replay: true"))
    preflight.check(experiment.load(), found, set, True)


def test_what_is_refused_leaves_the_plan_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project.put(tmp_path, project.replaced("rounds: 1", "rounds: 2"))
    (tmp_path / "dvc.lock").write_text("")
    with pytest.raises(UserError, match=r"dvc.lock: found nothing"):
        plan_files.write()
    assert {path: path.read_text() for path in dag_names.there()} == project.planned()
    assert experiment.load(MINIATURE).experiment.rounds == 1
