"""A process beside a rollout, which buys the teacher's answers to responses that have ended.

    rollout ── finished rows, a line of JSON each, in a file without a name ──> program
            ── END on its standard input, once there are no more of them ─────>
            <── how far it is after that, and at last what it bought ──────────

`program` is pipeline/runner/ahead/program.py: it puts the answers into the judgment store, where
stage teach finds them. Of all this a rollout writes counts into run.json, and nothing else.
What goes wrong with it is said, and is no fault of the rollout. When its input ends without END the
rollout has failed or was killed, and it ends too; the answers that arrived stay.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.config import params_file
from pipeline.config.method import Bought
from pipeline.core import dag_names, yaml_files
from pipeline.core.errors import UserError
from pipeline.stage import cells

PROGRAM = "pipeline.runner.ahead.program"
END = "end\n"
GRACE_SECONDS = 6.0  # for it to store what is in flight, after the rollout has failed
ASKS_STUDENT = "embedding-variance"  # the scheduler that continues responses with the student
SECONDS = "ahead_seconds"  # in run.json: how long a finished rollout waited for the answers


class Buyer:
    """The process, and the file of rows that it reads."""

    def __init__(self, key: str, teach: list[str]) -> None:
        self.key = key
        self.final: set[int] = set()  # rows that were handed over as the table has them
        self._count = 0
        self._rows = tempfile.TemporaryFile(dir=".")  # noqa: SIM115 - as long as the process
        number = self._rows.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", PROGRAM, str(number), key, *teach],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[number],
            text=True,
            encoding="utf-8",
        )

    def hand(self, row: dict[str, Any]) -> None:
        """Hand a finished row over; once more where its entropies are others now."""
        if self._rows.closed or self._process.poll() is not None:
            return
        try:
            self._rows.write(json.dumps(row).encode() + b"\n")
            self._rows.flush()
            self._count += 1
        except OSError as error:  # a full disk
            cells.log.warning(f"rollout {self.key}: buys no more answers ahead ({error}).")
            self.end()

    def finish(self) -> dict[str, Any]:
        """Wait until answers to all rows are bought; counts of them, for run.json."""
        counts: dict[str, Any] = {}
        if self._rows.closed:
            return counts
        start = time.monotonic()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended, and said why
            self._process.stdin.write(END)
            self._process.stdin.flush()
        with tqdm(desc="rollout, buys ahead", total=self._count, unit="row", disable=None) as bar:
            for line in self._process.stdout:
                said = json.loads(line)
                if "rows" in said:
                    bar.update(said["rows"] - bar.n)
                else:
                    counts = said
        if status := self._process.wait():
            cells.log.warning(
                f"rollout {self.key}: what buys answers ahead ended with {status}. Stage teach "
                "buys the rest."
            )
        return {**counts, SECONDS: round(time.monotonic() - start, 3)} if counts else counts

    def end(self) -> None:
        """The rollout needs it no more; what it has in flight is stored first."""
        self._rows.close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def buying(args: argparse.Namespace, run: cells.Run) -> Iterator[Buyer | None]:
    """Yield who buys answers ahead, None where nobody does; at the end wait for it."""
    teach = readers(args)
    if not teach:
        yield None
        return
    buyer = Buyer(args.cell, teach)
    try:
        yield buyer
        run.counts |= buyer.finish()
    finally:
        buyer.end()


def readers(args: argparse.Namespace) -> list[str]:
    """Keys of the teach cells whose answers are bought while this rollout runs.

    Their teacher is behind HTTP, the forks follow from the rollouts alone, params.yaml allows it,
    and DVC does not know what they write: else they might not run again, and buy nothing.
    """
    if not cells.NAMED.fullmatch(args.cell):  # a step of a cell of several
        return []
    try:
        free = params_file.free("teach", Bought)
        if not free.ahead or free.replay or free.transport != "live" or not _in_place(args):
            return []
        found = dict(_of_teachers(args.cell))
        known = "".join(yaml_files.text(path) for path in dag_names.locks()) if found else ""
    except (UserError, OSError) as error:  # stage teach says it where it matters
        cells.log.warning(f"rollout {args.cell}: buys no answers ahead: {error}")
        return []
    names = {key: dag_names.stage_name(f"{group}@{key}") for key, group in found.items()}
    return [key for key, name in names.items() if f"\n  {name}:\n" not in known]


def _in_place(args: argparse.Namespace) -> bool:
    """Whether the stage samples, reads and writes what its cell says: no trial of something else,
    and no rollouts of another trainer."""
    content = cells.cell("rollout", args.cell)[1]
    if content["params"]["prepare"].get("responses"):
        return False
    own = {**content["reads"], "out": content["out"]}
    return all(getattr(args, name) == Path(path) for name, path in own.items())


def _of_teachers(key: str) -> Iterator[tuple[str, str]]:
    """Yield key and group of the cells of hosted teachers that read the rollouts of cell `key`."""
    for path in sorted(dag_names.cell_file("teach", "*").parent.glob("*.yaml")):
        if f"\nrollouts: {key}\n" not in yaml_files.text(path):
            continue
        group, content = cells.cell("teach", path.stem)
        if content["params"]["kind"] == "local" or "forks" not in content:
            continue
        forks = cells.cell("forks", content["forks"])[1]
        if forks["params"]["scheduler"] != ASKS_STUDENT and "gate" not in forks:
            yield path.stem, group
