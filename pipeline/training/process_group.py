"""What the processes of one train stage do together: a group of one, or of several.

`One` is a group of a single process, which shares nothing and loads nothing of torch.distributed;
pipeline/training/fsdp.py has the group of several, and pipeline/training/launcher.py starts them.
"""

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from pipeline.engines.hf import Frozen, Policy
    from pipeline.method.objectives import Sequence

    Tensors = Mapping[str, torch.Tensor]
    Cut = Callable[[list[Sequence]], Iterator[list[Sequence]]]
    Kept = tuple[Tensors, Any]

ENV = "OMNIOPD_RANK"  # of a rank: its number, how many there are, who started it, where they meet
PIECE = 1 << 24  # numbers


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

    def told(self, kept: "Kept | None") -> "Kept | None":
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

    def told(self, kept: "Kept | None") -> "Kept | None":
        return kept


def squares(grads: "list[torch.Tensor]") -> float:
    """Their sum in float64, which never stands in memory for more than a piece of a gradient."""
    import torch

    pieces = (piece for grad in grads for piece in torch.split(grad.flatten(), PIECE))
    return sum(float(piece.double().pow(2).sum()) for piece in pieces)


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
