"""Ranks: the processes of one train stage that share its model and its work.

With `train.processes` above 1 the stage starts its own command line once more for each rank, waits
for all of them and ends as they do: one that dies ends the others, and none outlives the stage.
They meet at a file in a temporary folder and talk over loopback; no port is opened for them. What
they do together is a `Group` (pipeline/training/process_group.py).
"""

import ctypes
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.params import Runtime
from pipeline.core.errors import UserError
from pipeline.processes.fork_server import ENV as FORKSERVER
from pipeline.stage import cells
from pipeline.training.process_group import ENV, Group, One, Place, place

LOOK_SECONDS = 0.1  # between looks at whether a rank has ended
GRACE_SECONDS = 5  # from the signal that ends a rank to the kill
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launched(stage: str, key: str, count: int, device: str, moment_bits: int | None) -> bool:
    """Whether `count` ranks were to do the work of this process, a stage's cell, and have done it.

    False where this process is to do it: it is one of the ranks, or there is but one. Raises
    UserError if a rank fails, or if they cannot do it.
    """
    if count == 1 or ENV in os.environ:
        return False
    if moment_bits is not None:
        raise UserError(
            f"train.moment_bits: found {moment_bits}, wanted null, as train.processes is {count}: "
            "blocks of 8-bit moments cannot be dealt out. Change one of them."
        )
    _check(count, device)
    handed = cells.handed(stage, key)
    with _signals_as_they_are():
        ended = _run([*("-m", f"stages.{stage}"), *sys.argv[1:]], count, handed)
    if isinstance(ended, signal.Signals):  # end as a process does that has no handler
        signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)
    if ended:
        raise UserError(f"train: {ended}")
    return True


def _check(count: int, device: str) -> None:
    if device == "cpu":
        return
    if device != "cuda":
        raise UserError(
            f"runtime.device: found {device}, wanted cpu or cuda, as train.processes is {count} "
            "and each rank takes the GPU of its number. Change one of them."
        )
    import torch

    found = torch.cuda.device_count()
    if found < count:
        raise UserError(
            f"train.processes: found {count}, wanted at most {found}, the GPUs that CUDA shows "
            "here: each rank takes one. Lower it, or set runtime.device to cpu."
        )


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Restore signal handlers after the block; a cell of several steps would keep the ranks'."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(command: list[str], count: int, more: dict[str, str]) -> signal.Signals | str:
    """Run the ranks: the signal that ended them, or what went wrong, or nothing."""
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        start_processes,
    )

    # what it would say of ranks that it ends, we say below
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="omniopd-") as folder:
        meeting = str(Path(folder) / "meeting")
        envs = {r: _environment(Place(r, count, os.getpid(), meeting)) | more for r in range(count)}
        commands = {rank: tuple(command) for rank in range(count)}
        logs = DefaultLogsSpecs(log_dir=folder)
        ranks = start_processes("train", sys.executable, commands, envs, logs)
        try:
            result = ranks.wait(period=LOOK_SECONDS)
        except SignalException as stop:
            ranks.close(timeout=GRACE_SECONDS)
            return stop.sigval
    assert result is not None  # it waits for as long as they run
    # those that were ended because of another have its SIGTERM
    order = [(f.exitcode == -signal.SIGTERM, f.exitcode > 0, f) for f in result.failures.values()]
    return _say(min(order, key=lambda one: one[:2])[2], count) if order else ""


def _say(failure: Any, count: int) -> str:
    status, rank = failure.exitcode, failure.local_rank
    how = f"with status {status}" if status > 0 else f"by {signal.Signals(-status).name}"
    why = "What it says is above" if status > 0 else "Memory may have run out"
    return (
        f"rank {rank} of {count} ended {how}, wanted the end of the work; the other ranks were "
        f"ended too. {why}. Run `dvc repro` again: it goes on from the last step that was kept."
    )


def _environment(place: Place) -> dict[str, str]:
    """The variables that a rank has beside the launcher's own environment."""
    found = {ENV: " ".join(map(str, place)), FORKSERVER: ""}  # not handed over once more
    if sys.platform == "linux":
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        found |= {name: os.environ.get(name, value) for name, value in loopback.items()}
    return found


@contextmanager
def group(runtime: Runtime) -> Iterator[Group]:
    """The group that this process belongs to. It ends with the process that launched it."""
    found = place()
    if found is None:
        yield One()
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != found.launcher:
        sys.exit("error: train: the process that started this rank is gone.")
    from pipeline.training.fsdp import joined

    with joined(found, runtime.device) as several:
        yield several
