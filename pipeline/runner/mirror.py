"""Show a run in Prefect, and no more than that: a process is told what happens.

    flow ── Mirror ── a pipe ── python -m pipeline.runner.prefect_server ── .prefect/prefect.db

The run waits for that process only at its end, and not for long. What it was not told by then lies
in .prefect/untold, and the next run's process is told it first. Whatever happens to it, the
database or Prefect is said in one line; the cells do not notice.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, TextIO

import psutil
import typer

HOME = Path(".prefect")
DATABASE = HOME / "prefect.db"
GPU_CELLS = 1  # at a time; another limit that you set on Prefect's tag `gpu` is kept
UNTOLD = HOME / "untold"  # a file for each run that Prefect was not told to its end: JSON lines
END_SECONDS = 20.0  # that a run waits at its end; the database may have to be made first
ASKED_SECONDS = 2.0  # in all, where a signal asked the run to end
TOLD_SECONDS = 10.0  # until a wait is said
LOOK_SECONDS = 0.1
LINES, LONGEST = 1000, 2000  # that Prefect is told of a cell, and characters of each
WITHOUT = "The run itself does not depend on it."
LATER = "The next run tells it the rest."


class Unseen:
    """The mirror of a run that nobody is told of."""

    gpu_cells = GPU_CELLS
    name = ""

    @contextmanager
    def showing(self, results: Path) -> Iterator[None]:
        yield

    def cell(self, *about: object) -> None: ...

    def said(self, cell: str, line: str) -> None: ...


class Mirror:
    """The run in Prefect, within `showing`; before it and without it, nobody is told."""

    def __init__(self, cells: int, gpu: bool, changed: Callable[[], None]) -> None:
        """`cells`: how many the run has; `gpu`: whether one has the tag; `changed` is called when
        `gpu_cells` did."""
        self.gpu_cells = GPU_CELLS
        self.name = "a run"  # of it, for people
        self._cells, self._gpu, self._changed = cells, gpu, changed
        self._said: Counter[str] = Counter()  # lines of each cell
        self._why = "it was killed"
        self._over = Event()
        self._left = False  # given up or told to end: nothing more is said
        self._whole = False  # it was told all
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._run = uuid.uuid4().hex
        self._untold: TextIO | None = None

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
        with suppress(OSError):  # a folder that cannot be written: the process says so
            UNTOLD.mkdir(parents=True, exist_ok=True)
            path = UNTOLD / f"{self._run}.jsonl"
            self._untold = path.open("x", encoding="utf-8", buffering=1)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.runner.prefect_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # what the terminal sends to the run is not for it
        )
        for work in (self._write, self._read):
            Thread(target=work, daemon=True).start()
        about = {"run": self._run, "title": self.name, "cells": self._cells, "gpu": self._gpu}
        self._tell(about, "RUNNING", "Running", "")

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

    def said(self, cell: str, line: str) -> None:
        """The cell's stage wrote a line."""
        self._said[cell] += 1
        if self._said[cell] > LINES:
            return
        if self._said[cell] == LINES:
            line = f"{LINES} lines: the others are where the run was started"
        self._put({"cell": cell, "said": line[:LONGEST]})

    def _end(self, type_: str, name: str, message: str, results: Path) -> None:
        """The run has ended so; `results` is its table, where there is one."""
        table = results.read_text(encoding="utf-8") if results.is_file() else None
        self._tell({"results": table}, type_, name, message)

    def _close(self, asked: bool) -> None:
        """Let it write the rest; `asked`: the run was asked to end."""
        self._queue.put(None)
        start, told = time.monotonic(), asked
        while not self._over.wait(LOOK_SECONDS):
            taken = time.monotonic() - start
            if self._stopped() or taken > (ASKED_SECONDS if asked else END_SECONDS):
                self._left = asked
                self._why = "it does not answer" if self._stopped() else "it takes too long"
                break
            if not told and taken > TOLD_SECONDS:
                typer.echo(
                    "Prefect is still told what ran. Ctrl-C ends that and loses nothing else."
                )
                told = True
        with suppress(OSError):  # with whatever it started, which may hold the pipe
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._over.wait()
        if self._untold is not None:
            self._untold.close()
            if self._whole:
                Path(self._untold.name).unlink(missing_ok=True)

    def _stopped(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED
        return False

    def _tell(self, about: dict[str, Any], type_: str, name: str, message: str) -> None:
        self._put({**about, "type": type_, "name": name, "message": message})

    def _put(self, told: dict[str, Any]) -> None:
        line = json.dumps({**told, "at": time.time()})
        if self._untold is not None:
            with suppress(OSError):  # a full disk
                self._untold.write(line + "\n")
        self._queue.put(line)

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
                    self._left = self._whole = True
                    break  # Prefect's own end takes seconds, in which nothing is told any more
        if not self._left:
            more = WITHOUT if self._untold is None else f"{WITHOUT} {LATER}"
            typer.echo(f"Prefect does not show this run to its end: {self._why}. {more}")
        self._over.set()
