"""Ranks: the processes of one train stage that share its model and its work.

With `train.processes` above 1 the stage starts its own command line once more for each rank, waits
for all of them and ends as they do: one that dies ends the others, and none outlives the stage.
They meet at a file in a temporary folder and talk over loopback; no port is opened for them.

What ranks do together is a `Group`. `One` is a group of a single process, which shares nothing and
loads nothing of torch.distributed; pipeline/sharded.py has the group of several.
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline import cells, params
from pipeline.errors import UserError
from pipeline.forkserver import ENV as FORKSERVER
from pipeline.params import Runtime

if TYPE_CHECKING:
    import torch

    from pipeline.engines.hf import Policy
    from pipeline.objectives import Sequence
    from pipeline.training import Frozen

    Tensors = Mapping[str, torch.Tensor]
    Cut = Callable[[list[Sequence]], Iterator[list[Sequence]]]

ENV = "OMNIOPD_RANK"  # of a rank: its number, how many there are, who started it, where they meet
PIECE = 1 << 24  # numbers
LOOK_SECONDS = 0.1  # between looks at whether a rank has ended
GRACE_SECONDS = 5  # from the signal that ends a rank to the kill
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Untracked(params.Params):
    """The setting of block train that cannot change a result beyond rounding."""

    processes: params.Count = 1


class Place(NamedTuple):
    rank: int
    size: int
    launcher: int  # pid
    meeting: str  # path of the file


class Group(Protocol):
    """What the processes of a stage do together. All of them call the same methods in one order."""

    first: bool  # the one that writes

    def device(self, wanted: str) -> str:
        """Where models are loaded to, before their weights are dealt out."""

    def batches(self, sequences: "list[Sequence]", cut: "Cut") -> "Iterator[list[Sequence]]":
        """This process's forward passes of a step: as many as every other has."""

    def spread(self, student: "Policy", frozen: "Frozen") -> "tuple[Policy, Frozen]":
        """The same policies with their weights dealt out."""

    def heads(
        self, student: "Policy", frozen: "Frozen"
    ) -> "contextlib.AbstractContextManager[torch.Tensor]":
        """All of every head's weight in the block, that of the student with its gradient."""

    def agreed(self, flags: list[bool]) -> list[bool]:
        """Whether any process says so, for each."""

    def total(self, values: list[float]) -> list[float]:
        """The sum over processes of each."""

    def backward(
        self,
        hidden_TH: "torch.Tensor",
        parameters: "list[torch.nn.Parameter]",
        grad_TH: "torch.Tensor",
        again: bool,
    ) -> "list[torch.Tensor | None]":
        """Gradients of the parameters, summed over processes. `again`: it is not the last time."""

    def summed(self, whole: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        """The sum over processes of gradients of a whole weight, dealt out as `like` is."""

    def norm(self, grads: "list[torch.Tensor]") -> float:
        """Euclidean, of all of them together."""

    def number(self, scalar: "torch.Tensor") -> float:
        """The value of a scalar that was computed from what is dealt out."""

    def whole(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """All of what is dealt out, on the CPU of the first process; nothing on the others."""

    def gathered(self, student: "Policy", again: "Callable[[], Policy]") -> "Policy | None":
        """The student whole, on the first process; `again` loads what it was trained from."""

    def part(self, whole: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        """This process's part of what the first one has, dealt out as `like` is."""

    def told(self, kept: "tuple[Tensors, Any] | None") -> "tuple[Tensors, Any] | None":
        """What the first process found; of its tensors the others get but dtype and shape."""


class One:
    """The group of a process that works alone."""

    first = True

    def device(self, wanted: str) -> str:
        return wanted

    def batches(self, sequences: "list[Sequence]", cut: "Cut") -> "Iterator[list[Sequence]]":
        return cut(sequences)

    def spread(self, student: "Policy", frozen: "Frozen") -> "tuple[Policy, Frozen]":
        return student, frozen

    @contextmanager
    def heads(self, student: "Policy", frozen: "Frozen") -> "Iterator[torch.Tensor]":
        yield student.model.get_output_embeddings().weight

    def agreed(self, flags: list[bool]) -> list[bool]:
        return flags

    def total(self, values: list[float]) -> list[float]:
        return values

    def backward(
        self,
        hidden_TH: "torch.Tensor",
        parameters: "list[torch.nn.Parameter]",
        grad_TH: "torch.Tensor",
        again: bool,
    ) -> "list[torch.Tensor | None]":
        import torch

        found: list[torch.Tensor | None] = list(
            torch.autograd.grad(
                hidden_TH, parameters, grad_TH, retain_graph=again, allow_unused=True
            )
        )
        return found

    def summed(self, whole: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        return whole

    def norm(self, grads: "list[torch.Tensor]") -> float:
        return math.sqrt(squares(grads))

    def number(self, scalar: "torch.Tensor") -> float:
        return float(scalar)

    def whole(self, tensor: "torch.Tensor") -> "torch.Tensor":
        return tensor.cpu()

    def gathered(self, student: "Policy", again: "Callable[[], Policy]") -> "Policy | None":
        return student

    def part(self, whole: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        return whole.to(like.device)

    def told(self, kept: "tuple[Tensors, Any] | None") -> "tuple[Tensors, Any] | None":
        return kept


def squares(grads: "list[torch.Tensor]") -> float:
    """Their sum in float64, which never stands in memory for more than a piece of a gradient."""
    import torch

    pieces = (piece for grad in grads for piece in torch.split(grad.flatten(), PIECE))
    return sum(float(piece.double().pow(2).sum()) for piece in pieces)


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
    """What waits for the ranks sets handlers, which a cell of several steps would keep."""
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
    """What a rank has beside the launcher's own environment."""
    found = {ENV: " ".join(map(str, place)), FORKSERVER: ""}  # not handed over once more
    if sys.platform == "linux":
        loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        found |= {name: os.environ.get(name, value) for name, value in loopback.items()}
    return found


def place() -> Place | None:
    """Of this process among the ranks, None if it works alone."""
    if ENV not in os.environ:
        return None
    rank, count, launcher, meeting = os.environ[ENV].split(" ", 3)
    return Place(int(rank), int(count), int(launcher), meeting)


def follows() -> bool:
    """Whether this process is a rank that writes nothing."""
    found = place()
    return found is not None and found.rank > 0


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
    from pipeline.sharded import joined

    with joined(found, runtime.device) as several:
        yield several
