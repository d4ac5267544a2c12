"""What Prefect shows of a run, and never more than that: a process is told what happens.

    flow ── Mirror ── a pipe ── python -m pipeline.mirrored ── .prefect/prefect.db

The run waits for that process only at its end, and only while it gets on. Whatever happens to it,
the database or Prefect is said in one line; the cells do not notice.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import psutil
import typer

HOME = Path(".prefect")
DATABASE = HOME / "prefect.db"
GPU_CELLS = 1  # at a time; another limit that you set on Prefect's tag `gpu` is kept
# without a word from it, at the end of a run, until it is given up; it may make the database first
END_SECONDS = 180.0
ASKED_SECONDS = 2.0  # in all, where a signal asked the run to end
TOLD_SECONDS = 10.0  # until a wait is said
LOOK_SECONDS = 0.1
WITHOUT = "The run itself does not depend on it."


class Mirror:
    """The run in Prefect, within `showing`; before it and without it, nobody is told."""

    def __init__(self, gpu: bool, changed: Callable[[], None]) -> None:
        """`gpu`: whether a cell has the tag; `changed` is called when `gpu_cells` did."""
        self.gpu_cells = GPU_CELLS
        self._gpu, self._changed = gpu, changed
        self._why = "it was killed"
        self._over = Event()
        self._left = False  # given up or told to end: nothing more is said
        self._queue: SimpleQueue[str | None] = SimpleQueue()

    @contextmanager
    def showing(self, results: Path) -> Iterator[None]:
        """Show the run that the block is, and at its end `results`. Raises only what it raises."""
        self._start()
        asked = False
        try:
            yield
        except KeyboardInterrupt as error:
            asked = True
            self._end("CANCELLED", "Cancelled", f"stopped by {error}", results)
            raise
        except Exception as error:
            self._end("FAILED", "Failed", str(error), results)
            raise
        else:
            self._end("COMPLETED", "Completed", "", results)
        finally:
            self._close(asked)

    def _start(self) -> None:
        self._heard = time.monotonic()  # when it last said a word
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.mirrored"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # what the terminal sends to the run is not for it
        )
        for work in (self._write, self._read):
            Thread(target=work, daemon=True).start()
        self._tell({"gpu": self._gpu}, "RUNNING", "Running", "")

    def cell(
        self,
        cell: str,
        label: str,
        gpu: bool,
        reads: Iterable[str],
        type_: str,
        name: str,
        message: str = "",
    ) -> None:
        """A cell has come into a state of Prefect's: its type and its name."""
        about = {"cell": cell, "label": label, "gpu": gpu, "reads": sorted(reads)}
        self._tell(about, type_, name, message)

    def _end(self, type_: str, name: str, message: str, results: Path) -> None:
        """The run has ended so; `results` is its table, where there is one."""
        table = results.read_text(encoding="utf-8") if results.is_file() else None
        self._tell({"results": table}, type_, name, message)

    def _close(self, asked: bool) -> None:
        """Let it write the rest while it gets on; `asked`: the run was asked to end."""
        self._queue.put(None)
        start, told = time.monotonic(), asked
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            limit = start + ASKED_SECONDS if asked else max(start, self._heard) + END_SECONDS
            if self._stopped() or now > limit:
                self._left, self._why = asked, "it does not answer"
                break
            if not told and now > start + TOLD_SECONDS:
                typer.echo(
                    "Prefect is still told what ran. Ctrl-C ends that and loses nothing else."
                )
                told = True
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._over.wait()

    def _stopped(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        return False

    def _tell(self, about: dict[str, Any], type_: str, name: str, message: str) -> None:
        state = {"type": type_, "name": name, "message": message, "at": time.time()}
        self._queue.put(json.dumps({**about, **state}))

    def _write(self) -> None:
        """Lines wait here, not in the run, while it is busy or stopped."""
        to = self._process.stdin
        assert to is not None
        with suppress(OSError):  # it is gone: `_read` says so
            while (line := self._queue.get()) is not None:
                to.write(line + "\n")
                to.flush()
            to.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard = time.monotonic()
            word, _, text = line.strip().partition(" ")
            match word:
                case "limit":
                    self.gpu_cells = max(int(text), 1)
                    self._changed()
                case "moved":
                    typer.echo(f"Prefect: {text}.")
                case "failed":
                    self._why = text
                case "done":
                    self._left = True
        if not self._left:
            typer.echo(f"Prefect does not show this run to its end: {self._why}. {WITHOUT}")
        self._over.set()
