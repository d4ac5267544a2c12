"""Programs of every bad will: each is wrong with its reason, nothing of it is left behind."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import sandbox
from pipeline.core.errors import UserError
from pipeline.sandbox import extract
from pipeline.tasks import code
from tests.programs import HOSTILE

PROMPT = 'def double(n: int) -> int:\n    """Twice n."""\n'
TEST = "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 2\n"
RIGHT = "def double(n):\n    return 2 * n\n"
SECONDS = 1.5
OUTSIDE = ("network", "environment", "home", "files of the project", "writing outside", "users")

try:
    sandbox.probe()
    MISSING = ""
except UserError as error:
    MISSING = str(error)
needs_sandbox = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def judged(source, seconds=SECONDS):
    return code.judged(source, TEST, "double", sandbox.Limits(seconds, 256 << 20))


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Canaries in the home, the environment and on loopback; and a mark on every process."""
    before = set(psutil.Process().children(recursive=True))  # of other tests
    canary = tmp_path / "canary"
    canary.write_text("CANARY")
    monkeypatch.setenv("OMNIOPD_TEST", "CANARY")
    mark = f"mark {os.getpid()} {time.time_ns()}"
    marked = tmp_path / "harness.py"
    marked.write_text(f"{sandbox.HARNESS.read_text()}\n# {mark}\n")
    monkeypatch.setattr(sandbox, "HARNESS", marked)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        server.settimeout(0.01)
        named.bind(f"\0omniopd-CANARY-{os.getpid()}")
        named.listen()
        named.settimeout(0.01)

        def fill(source):
            port = str(server.getsockname()[1])
            source = source.replace("PORT", port).replace("FILE", str(canary))
            source = source.replace("omniopd-CANARY", f"omniopd-CANARY-{os.getpid()}")
            return source.replace("PROJECT", sandbox.__file__)

        yield fill
        for listener in (server, named):
            with pytest.raises(TimeoutError):
                listener.accept()
    assert canary.read_text() == "CANARY"
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]
    assert set(psutil.Process().children(recursive=True)) <= before


@needs_sandbox
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_wrong_with_its_reason_and_leaves_nothing(watched, name):
    source, reason = HOSTILE[name]
    before = time.monotonic()
    # a deed may take its time on a busy machine: it is its result that is looked at
    found = judged(watched(source), SECONDS if reason in ("any", "timeout") else 20.0)
    assert found is not None
    assert reason in ("any", found)
    assert time.monotonic() - before < 60  # its seconds, and room for a busy machine
    assert judged(RIGHT, 20.0) is None  # the next one is graded as ever


@needs_sandbox
def test_a_program_that_used_up_its_time_of_the_processor_timed_out(monkeypatch):
    whole = sandbox._job

    def short(source, given, limits):
        job = whole(source, given, limits)
        return job | {"limits": job["limits"] | {"CPU": 1}}

    monkeypatch.setattr(sandbox, "_job", short)
    assert judged("while True: pass", 60.0) == "timeout"


@needs_sandbox
def test_a_program_does_not_start_when_who_asked_for_it_is_gone(monkeypatch):
    source, limits, whole = "import os; os.write(3, b'ran')", sandbox.Limits(20.0), sandbox._job
    assert sandbox.run(source, None, limits).result == b"ran"
    monkeypatch.setattr(sandbox, "_job", lambda *given: whole(*given) | {"parent": 1})
    assert sandbox.run(source, None, limits).result == b""


@needs_sandbox
def test_the_canaries_of_these_tests_can_be_found_outside_the_sandbox(tmp_path):
    """So that the deeds above fail because of the sandbox, not because they are badly written."""
    canary = tmp_path / "canary"
    canary.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in OUTSIDE:
            source = HOSTILE[name][0].replace("PORT", str(server.getsockname()[1]))
            source = source.replace("FILE", str(canary)).replace("PROJECT", __file__)
            done = subprocess.run(
                [sys.executable, "-c", f"{source}\nsys.exit(double(1) != 2)"],
                env={**os.environ, "X": "CANARY"},
            )
            assert done.returncode == 0, name


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can forbid shared memory")
def test_root_forbids_memory_that_outlives_its_process():
    source = (
        "import ctypes, os\nos.write(3, str(ctypes.CDLL(None).shmget(0, 4096, 0o1600)).encode())"
    )
    assert sandbox.run(source, None, sandbox.Limits(20.0)).result == b"-1"


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        (f"Sure:\n```python\n{RIGHT}```\nDone.", f"\n{RIGHT}"),
        (f"```\n{RIGHT}", f"\n{RIGHT}"),
        (f"```python\n{RIGHT}```\n```python\nprint(double(2))\n```", f"\n{RIGHT}"),
        ("    return 2 * n\n", f"{PROMPT}    return 2 * n\n"),
        ("    return 2 * n\n\ndef other():\n    pass", f"{PROMPT}    return 2 * n\n\n"),
        ("```python\n    return 2 * n\n```", f"{PROMPT}    return 2 * n\n"),
    ],
)
def test_the_program_is_the_last_block_that_defines_the_function_or_continues_the_prompt(
    response, wanted
):
    assert extract.program(response, PROMPT, "double") == wanted


def test_what_stands_before_the_function_in_the_prompt_is_kept():
    prompt = f"from math import ceil\n\ndef helper(): ...\n\n{PROMPT}"
    found = extract.program(f"```python\n{RIGHT}```", prompt, "double")
    assert found == f"from math import ceil\n\ndef helper(): ...\n\n\n{RIGHT}"


def prepare(folder, **changes):
    values = {
        "task": "code",
        "seed": 1,
        "train": 1,
        "dev": 1,
        "test": 1,
        "folder": str(folder),
        "sets": {"own": {"file": "own.jsonl", "splits": ["train", "dev", "test"]}},
        "instruction": "Complete the function.",
        "timeout_seconds": 20.0,
    }
    return code.Prepare.model_validate_json(json.dumps(values | changes))


@needs_sandbox
def test_rows_as_humaneval_has_them_are_graded(tmp_path):
    rows = [
        {
            "task_id": f"Own/{n}",
            "prompt": PROMPT.replace("Twice", "x" * n),
            "canonical_solution": "    return 2 * n\n",
            "test": TEST,
            "entry_point": "double",
        }
        for n in range(3)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = code.load(prepare(tmp_path))
    problems = list(task.problems(1))
    assert sorted(p.prompt for p in problems) == sorted(row["prompt"] for row in rows)
    assert problems[0].messages[0]["content"].startswith("Complete the function.\n```python\ndef")
    right = task.check("own", rows[0]["canonical_solution"], problems[0].answer)
    assert (right.correct, right.reason) == (True, None)
    wrong = task.check("own", "    return 3 * n\n", problems[0].answer)
    assert (wrong.correct, wrong.reason) == (False, "tests")
    assert wrong.extracted.endswith("return 3 * n\n")
    long = task.check("own", "    return 2 * n" + " " * 200_000, problems[0].answer)
    assert (long.correct, long.reason, len(long.extracted)) == (False, "too_long", 100_000)


def test_a_row_whose_entry_point_is_no_name_is_refused(tmp_path):
    row = {"prompt": PROMPT, "test": TEST, "entry_point": "a b"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"line 1: entry_point: found 'a b', wanted the name of"):
        list(code.load(prepare(tmp_path)).problems(1))


@needs_sandbox
def test_without_namespaces_no_code_is_run(monkeypatch):
    monkeypatch.setattr(sandbox, "INSIDE", Path("/gone.py"))
    with pytest.raises(UserError, match=r"sandbox: .*Code is not run without a sandbox: it needs"):
        sandbox.run("print(1)", None, sandbox.Limits(5.0))


ALONE = """
import sys
from pipeline import sandbox
from pipeline.core.errors import UserError
try:
    sandbox.probe()
    print(sandbox.run("import os; os.write(3, b'ran')", None, sandbox.Limits(5.0)).result.decode())
except UserError as error:
    print(error)
"""


def alone(tmp_path, *command):
    """A process of its own, from a copy of the code that everybody may read."""
    folder = Path("/tmp") / f"omniopd-{os.getpid()}-{time.time_ns()}"
    try:
        (folder / "pipeline/core").mkdir(parents=True)
        shutil.copytree(Path(sandbox.__file__).parent, folder / "pipeline/sandbox")
        for name in ("__init__.py", "core/__init__.py", "core/errors.py"):
            shutil.copy(Path(sandbox.__file__).parents[1] / name, folder / "pipeline" / name)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        return subprocess.run(
            [*command, "-B", "-c", ALONE],
            env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
            cwd="/",
            capture_output=True,
            text=True,
        ).stdout
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, setpriv")
def test_an_ordinary_user_can_build_the_sandbox(tmp_path):
    user = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    readable = [path for path in (sys.executable, "/usr/bin/python3") if _may_run(user, path)]
    if not readable:
        pytest.skip("an ordinary user can read no Python here")
    assert alone(tmp_path, *user, readable[0]) == "ran\n"


def _may_run(user, path):
    shell = ["sh", "-c", 'exec "$0" -c "import selectors"', path]  # setpriv itself has rights left
    done = subprocess.run([*user, *shell], capture_output=True)
    return done.returncode == 0


@needs_sandbox
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_where_namespaces_are_forbidden_the_message_says_what_to_allow(tmp_path):
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    found = alone(tmp_path, "unshare", "-Ur", "sh", "-c", forbid, "sh", sys.executable)
    assert found.startswith("sandbox: [Errno 28] unshare: No space left on device. Code is not")
