"""The stage that DVC started, where runtime.launch names a prefix for it: it waits for the job.

Nothing is imported but what every stage loads, as one without a prefix goes on in this process.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn, cast

from pipeline.core.dag_names import cell_file
from pipeline.core.errors import UserError, short, stop
from pipeline.processes.launch.kinds import KINDS, kind

PARAMS = Path("params.yaml")
GROUP = re.compile(r"^group: ([\w-]+)$", re.M)
INSIDE = "OMNIOPD_LAUNCHED"  # in the environment of a stage that runs where it was launched
RANK = "OMNIOPD_RANK"  # of pipeline/training/process_group.py: of a stage that runs already
# what is only of this machine: the fork server, vLLM's resident engines, the reaper's mark
OURS = ("OMNIOPD_FORKSERVER", "OMNIOPD_ENGINES", "OMNIOPD_RUN", INSIDE)
PASSED = ("DVC_", "OMNIOPD_")  # on the command line, as ssh and docker pass no environment on
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOT_FOUND = (126, 127)  # of a shell, ssh or env: no such program, or one that cannot be run
WAITS, RUNS = "launch: waits for its place: ", "launch: runs on "  # then the prefix; the host


def hand_over(stage: str, words: list[str]) -> None:
    """Let the prefix of the cell's kind run this stage and end as it ends; return without one."""
    if INSIDE in os.environ or RANK in os.environ or "--cell" not in words[:-1]:
        return
    try:
        name, prefix = _prefix(stage, words[words.index("--cell") + 1])
        if prefix:
            _end_as(_waited(prefix, ["stage", stage, *words], name), prefix, name)
    except (UserError, OSError) as error:
        stop(error)


def _prefix(stage: str, key: str) -> tuple[str, list[str]]:
    """The setting that the cell's kind has, and its words; none where it runs here."""
    path = cell_file(stage, key)
    # this is asked for every stage, so YAML is read only where it may say something
    if not PARAMS.is_file() or b"launch" not in PARAMS.read_bytes() or not path.is_file():
        return "", []
    from pipeline.core import yaml_files

    found = yaml_files.load(PARAMS)
    runtime = found.get("runtime") if isinstance(found, dict) else None
    launch = (runtime.get("launch") if isinstance(runtime, dict) else None) or {}
    group = GROUP.search(path.read_text(encoding="utf-8"))
    if group is None:
        return "", []  # the stage itself says what is wrong with its file
    if not isinstance(launch, dict) or not set(launch) <= set(KINDS):
        raise UserError(
            f"{PARAMS}: runtime.launch: found {short(launch)}, wanted a prefix for each of some of "
            f"{', '.join(KINDS)}. Correct it."
        )
    name = kind(group[1])
    return f"runtime.launch.{name}", words_of(launch.get(name, ""), f"runtime.launch.{name}")


def words_of(prefix: object, name: str) -> list[str]:
    """A prefix as the words of a command line. Raises UserError."""
    try:
        return shlex.split(cast(str, prefix))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{PARAMS}: {name}: found {short(prefix)}, wanted the words of a command as a shell "
            f"reads them ({error}). Correct it."
        ) from error


def command(prefix: list[str], words: list[str]) -> list[str]:
    """What the keeper starts: the prefix, and after it all that the stage must be told there."""
    told = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(PASSED)]
    told = [one for one in told if one.partition("=")[0] not in OURS]
    omniopd = os.path.abspath(sys.argv[0])
    after = [omniopd, "launched", os.getcwd(), f"{time.time():.1f}", *told, *words]
    if os.path.basename(prefix[0]) == "ssh":  # it joins them with spaces, for a shell to read
        after = [shlex.join(after)]
    return [*prefix, *after]


def _waited(prefix: list[str], words: list[str], name: str) -> int:
    """Have a keeper run it; its exit status, negative for the signal that ended it."""
    sys.stderr.write(f"{WAITS}{shlex.join(prefix)}\n")
    sys.stderr.flush()
    ours, keeper = socket.socketpair()
    asked: list[int] = []

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        try:
            ours.sendall(bytes([number]))
        except OSError:  # it has ended
            return

    for number in PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    with ours, keeper:
        file = Path(__file__).with_name("keeper.py")
        started = subprocess.Popen(
            [sys.executable, "-I", "-S", file, str(keeper.fileno()), *command(prefix, words)],
            env={k: v for k, v in os.environ.items() if k not in OURS},
            pass_fds=[keeper.fileno()],
            start_new_session=True,
        )
        started.wait()  # it has left a child that is nobody's
        keeper.close()
        with ours.makefile("rb") as said:
            word, _, text = said.read().decode().partition(" ")
    if word == "missing":
        raise UserError(
            f"{PARAMS}: {name}: found {short(prefix[0])}, which cannot be started here ({text}), "
            "wanted a program that runs the words after it. Correct it, or take it out."
        )
    if word != "ended":
        raise UserError(
            f"{name}: the process that waited for {shlex.join(prefix)} was killed, and its job may "
            "still run. End that, then run this again."
        )
    if asked and int(text):  # as a stage here ends
        return -asked[0]
    return int(text)


def _end_as(status: int, prefix: list[str], name: str) -> NoReturn:
    if status in NOT_FOUND:
        raise UserError(
            f"{PARAMS}: {name}: `{shlex.join(prefix)}` ended with status {status}: a program was "
            f"not found or cannot be run, here or where the stage was to start. Wanted that it "
            f"runs {os.path.abspath(sys.argv[0])}. Correct the prefix, or install the project "
            "there at the same path."
        )
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        sys.stderr.flush()
        os.kill(os.getpid(), -status)
    os._exit(status)
