"""A stand-in for Slurm on this host, as far as a launch prefix sees it: `srun OPTION... /COMMAND`.

A job waits in the queue until FOLDER/open exists. It is then started by nobody's child, in a
session of its own and another folder, and outlives an srun that is killed, as in a cluster whose
InactiveLimit is 0. Signals are as srun.c has them: at TERM and HUP all processes of the job are
killed, the first INT shows its state, and a second one within a second reaches the job. The status
is the job's, 128 + N where signal N ended it. What the job writes comes through srun.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER, JOB = "FAKE_SLURM", "FAKE_SLURM_JOB"  # in the environment
LOOK_SECONDS = 0.02


def install(folder: Path) -> dict[str, str]:
    """Make the program; what the environment has of it, PATH among it."""
    folder.mkdir()
    (folder / "srun").write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    (folder / "srun").chmod(0o755)
    return {FOLDER: str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def jobs(folder: Path) -> list[str]:
    """The state of each job, in order: PENDING, RUNNING, CANCELLED or the exit status."""
    return [path.read_text() for path in sorted(folder.glob("*.state"))]


def at_work(folder: Path) -> list[int]:
    """Processes of any job."""
    return _marked(FOLDER, str(folder), JOB)


def _marked(name: str, value: str, also: str = "") -> list[int]:
    found = []
    for one in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path("/proc", one, "environ").read_bytes().split(b"\0") if one.isdigit() else []
            has = not also or any(word.startswith(f"{also}=".encode()) for word in words)
            if f"{name}={value}".encode() in words and has:
                found.append(int(one))
    return found


class Srun:
    def __init__(self, words: list[str]) -> None:
        first = next(i for i, word in enumerate(words) if os.path.isabs(word))
        self.words, folder = words[first:], Path(os.environ[FOLDER])  # without its options
        self.name = str(folder / f"{time.time_ns()}")
        self.shown = 0.0
        self.state("PENDING")

    def state(self, text: str | None = None) -> str:
        path = Path(f"{self.name}.state")
        if text is not None:
            path.with_suffix(".new").write_text(text)
            path.with_suffix(".new").rename(path)
        return path.read_text()

    def main(self) -> int:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.cancel())
        signal.signal(signal.SIGINT, lambda *_: self.interrupt())
        while not Path(os.environ[FOLDER], "open").exists():
            time.sleep(LOOK_SECONDS)
        self.state("RUNNING")
        self.start()
        with Path(f"{self.name}.out").open("rb") as out:
            while True:
                ended = self.state() != "RUNNING"
                os.write(1, out.read())
                if ended:
                    return int(self.state())
                time.sleep(LOOK_SECONDS)

    def start(self) -> None:
        """By a child that ends at once, so that the job is nobody's."""
        Path(f"{self.name}.out").touch()
        given = json.dumps([self.name, *self.words])
        subprocess.Popen(
            [sys.executable, __file__, "--job", given],
            env={**os.environ, JOB: self.name},
            cwd="/",
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).wait()

    def interrupt(self) -> None:
        if time.monotonic() - self.shown > 1:
            self.shown = time.monotonic()
            sys.stderr.write("srun: interrupt (one more within 1 sec to abort)\n")
            return
        if self.state() == "PENDING":
            self.cancel()
        pid = int(Path(f"{self.name}.pid").read_text())
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGINT)

    def cancel(self) -> None:
        while found := [pid for pid in _marked(JOB, self.name) if pid != os.getpid()]:
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.state("CANCELLED")
        os._exit(1)


def job(name: str, words: list[str]) -> None:
    """Run it and write down how it ended."""
    if os.fork():
        os._exit(0)
    with Path(f"{name}.out").open("ab") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        Path(f"{name}.pid").write_text(str(process.pid))
        status = process.wait()
    path = Path(f"{name}.state")
    path.with_suffix(".end").write_text(str(status if status >= 0 else 128 - status))
    path.with_suffix(".end").rename(path)


if __name__ == "__main__":
    if sys.argv[1] == "--job":
        job(*(lambda name, *words: (name, words))(*json.loads(sys.argv[2])))
    else:
        sys.exit(Srun(sys.argv[1:]).main())
