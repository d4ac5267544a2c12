"""Python programs that nobody trusts, run without network, files, environment or time to spare.

Built from what Linux gives an ordinary user: namespaces of users, processes, network, mounts and
ipc, a file system that holds the interpreter and an empty /tmp, and resource limits. There is no
version without them: where they cannot be had, `probe` says what is missing.

What it does not stop: an attack on the kernel itself. Memory of several processes together is
bounded only by processes x memory_bytes, and System V shared memory, which root can forbid and an
ordinary user cannot, by nothing but the machine.
"""

import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import UserError

INSIDE = Path(__file__).with_name("inside.py")
EXTRACT = Path(__file__).with_name("extract.py")
HARNESS = Path(__file__).with_name("harness.py")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
LAST_SECONDS = 10.0  # in which a killed sandbox must be gone
START_SECONDS = 1.0  # until the program begins; not counted against it
REMEDY = (
    "Code is not run without a sandbox: it needs Linux 5.14 or newer that lets this user make "
    "namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, --privileged)."
)
PROBE = """
import json, os, socket, sys, time
limit, found = json.loads(sys.stdin.read()), []
if set(os.listdir("/")) & {"home", "root", "proc", "sys"} - set(limit["shown"]):
    found.append("files outside it are seen")
for path in ("/x", "/usr/lib/x"):
    try:
        open(path, "w", encoding="utf-8")
        found.append(f"{path} can be written")
    except OSError:
        pass
if [name for _, name in socket.if_nameindex() if name != "lo"] or os.environ.keys() - {
    "PATH", "LC_ALL"
}:
    found.append("network or environment are seen")
made = 0
while made <= limit["processes"]:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        break
    made += 1
if made > limit["processes"]:
    found.append("processes are not limited")
os.write(3, json.dumps(found).encode())
"""


CPU_STATUS = 256 - signal.SIGXCPU  # of a program that used up its seconds


class Limits(NamedTuple):
    seconds: float  # by the clock, and of each process by its own
    memory_bytes: int = 512 << 20  # addresses of each process
    processes: int = 8  # threads are processes too
    file_bytes: int = 16 << 20
    disk_bytes: int = 32 << 20  # of everything in /tmp
    files: int = 1000  # in /tmp
    output_bytes: int = 1 << 20


class Ended(NamedTuple):
    stopped: str | None  # timeout, output; None: it ended by itself
    status: int  # exit status; of a signal 256 minus its number
    output: bytes
    result: bytes  # what it wrote to descriptor 3


def run(source: str, given: Any, limits: Limits) -> Ended:
    """Run Python source with `given` as JSON on its stdin. Raises UserError without a sandbox.

    When this returns, no process of the program is left.
    """
    result, write = os.pipe()
    with open(result, "rb", buffering=0) as verdict:
        try:
            process = _start(_job(source, given, limits) | {"result": write})
        except OSError as error:
            raise UserError(f"sandbox: {error}. {REMEDY}") from error
        finally:
            os.close(write)
        with process:
            stopped, (output, errors, found) = _read(process, verdict, limits)
    if errors:
        text = errors.decode(errors="replace").strip()
        raise UserError(f"sandbox: {text}. {REMEDY}")
    return Ended(stopped, process.returncode, output, found)


def _start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(job).encode())
        stdin.seek(0)
        return subprocess.Popen(
            [job["python"], "-I", "-S", "-B", str(INSIDE)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(job["result"],),
            env={},
            cwd="/",
            start_new_session=True,
        )


def _job(source: str, given: Any, limits: Limits) -> dict[str, Any]:
    python = os.path.realpath(sys.executable)
    library = os.path.realpath(os.path.join(sys.base_prefix, "lib"))
    shown = [path for path in (*LIBRARIES, "/etc/ld.so.cache", *DEVICES) if os.path.exists(path)]
    shown += [
        path
        for path in (library, python)
        if not any(path == seen or path.startswith(f"{seen}/") for seen in shown)
    ]
    cpu = int(limits.seconds) + 1
    return {
        "parent": os.getpid(),
        "python": python,
        "source": source,
        "given": json.dumps(given),
        "shown": shown,
        "disk_bytes": limits.disk_bytes,
        "files": limits.files,
        "limits": {
            "AS": limits.memory_bytes,
            "CPU": cpu,
            "NPROC": limits.processes + 1,  # as an ordinary user, process 1 counts
            "FSIZE": limits.file_bytes,
            "NOFILE": 64,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        },
    }


def _read(
    process: subprocess.Popen[bytes], verdict: Any, limits: Limits
) -> tuple[str | None, list[bytes]]:
    """Why it was stopped, and what came from stdout, stderr and the verdict, until all close."""
    streams = [process.stdout, process.stderr, verdict]
    found = [bytearray() for _ in streams]
    stopped, deadline = None, time.monotonic() + limits.seconds + START_SECONDS
    with selectors.DefaultSelector() as selector:
        for number, stream in enumerate(streams):
            selector.register(stream, selectors.EVENT_READ, number)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                text = os.read(key.fd, 1 << 16)
                if not text:
                    selector.unregister(key.fileobj)
                elif stopped is None:
                    found[key.data] += text
            over = max(map(len, found)) > limits.output_bytes
            if time.monotonic() < deadline and not (over and stopped is None):
                continue
            if stopped is not None:
                raise UserError("sandbox: a killed program did not end. Is the machine alive?")
            stopped, deadline = "output" if over else "timeout", time.monotonic() + LAST_SECONDS
            process.kill()
    process.wait()
    return stopped, [bytes(text[: limits.output_bytes]) for text in found]


@functools.cache
def probe() -> None:
    """Raise UserError, saying what is missing, unless programs can be shut in on this machine."""
    if not sys.platform.startswith("linux"):
        raise UserError(f"sandbox: found {sys.platform}, wanted linux. {REMEDY}")
    limits = Limits(seconds=20.0)
    shown = [path.split("/")[1] for path in _job("", None, limits)["shown"]]
    ended = run(PROBE, {"processes": limits.processes, "shown": shown}, limits)
    problems = json.loads(ended.result) if ended.result else [ended.output.decode()[-300:]]
    if problems:
        raise UserError(f"sandbox: {'; '.join(problems)}. {REMEDY}")
