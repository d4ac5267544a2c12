"""The processes of one train stage as a group: of one, or of several that work together.

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

ENV = "OMNIOPD_RANK"  # a rank's number, how many there are, who started it, where they meet
PIECE = 1 << 24  # numbers


class Place(NamedTuple):
    rank: int
    size: int
    launcher: int  # pid
    meeting: str  # path of the file


class Group(Protocol):
    """The processes of a stage. All of them call the same methods in one order."""

    first: bool  # the one that writes

    def device(self, wanted: str) -> str:
        """The device that models are loaded to before their weights are sharded."""

    def batches(self, sequences: "list[Sequence]", cut: "Cut") -> "Iterator[list[Sequence]]":
        """This process's forward passes of a step: as many as every other has."""

    def spread(self, student: "Policy", frozen: "Frozen") -> "tuple[Policy, Frozen]":
        """The same policies with their weights sharded over the processes."""

    def heads(
        self, student: "Policy", frozen: "Frozen"
    ) -> "contextlib.AbstractContextManager[torch.Tensor]":
        """Gather every head's weight for the block; yield the student's, with its gradient."""

    def any_rank(self, flags: list[bool]) -> list[bool]:
        """For each flag, whether it is set on any process."""

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        """Each value summed over processes."""

    def backward(
        self,
        hidden_TH: "torch.Tensor",
        parameters: "list[torch.nn.Parameter]",
        grad_TH: "torch.Tensor",
        again: bool,
    ) -> "list[torch.Tensor | None]":
        """Gradients of the parameters, summed over processes. `again`: more passes follow."""

    def reduce_scatter(self, full: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        """Sum gradients of a full weight over processes; return this one's shard, as `like` is."""

    def norm(self, grads: "list[torch.Tensor]", less: "list[torch.Tensor] | None" = None) -> float:
        """The Euclidean norm of all gradients together, of what they exceed `less` by if given."""

    def number(self, scalar: "torch.Tensor") -> float:
        """The value of a scalar that was computed from sharded tensors."""

    def full_tensor(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The full tensor on the CPU of the first process; an empty one on the others."""

    def gathered(self, student: "Policy", again: "Callable[[], Policy]") -> "Policy | None":
        """The full student on the first process; `again` loads what it was trained from."""

    def shard(self, full: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        """This process's shard, as `like` is, of a tensor that the first process has."""

    def broadcast_object(self, kept: "Kept | None") -> "Kept | None":
        """Return what the first process passes; others get its tensors' dtypes and shapes alone."""


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

    def any_rank(self, flags: list[bool]) -> list[bool]:
        return flags

    def all_reduce_sum(self, values: list[float]) -> list[float]:
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

    def reduce_scatter(self, full: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        return full

    def norm(self, grads: "list[torch.Tensor]", less: "list[torch.Tensor] | None" = None) -> float:
        return math.sqrt(squares(grads, less))

    def number(self, scalar: "torch.Tensor") -> float:
        return float(scalar)

    def full_tensor(self, tensor: "torch.Tensor") -> "torch.Tensor":
        return tensor.cpu()

    def gathered(self, student: "Policy", again: "Callable[[], Policy]") -> "Policy | None":
        return student

    def shard(self, full: "torch.Tensor", like: "torch.Tensor") -> "torch.Tensor":
        return full.to(like.device)

    def broadcast_object(self, kept: "Kept | None") -> "Kept | None":
        return kept


def squares(grads: "list[torch.Tensor]", less: "list[torch.Tensor] | None" = None) -> float:
    """The sum of squares of `grads` - `less` in float64.

    A piece of a gradient at a time: a head's is hundreds of MiB.
    """
    import torch

    total = 0.0
    for i, grad in enumerate(grads):
        parts = torch.split(grad.flatten(), PIECE)
        others = torch.split(less[i].flatten(), PIECE) if less else [None] * len(parts)
        for part, other in zip(parts, others, strict=True):
            found = part if other is None else part - other
            total += float(found.to(torch.float64, copy=True).pow_(2).sum())
    return total


def place() -> Place | None:
    """This process's place among the ranks, None if it works alone."""
    if ENV not in os.environ:
        return None
    rank, count, launcher, meeting = os.environ[ENV].split(" ", 3)
    return Place(int(rank), int(count), int(launcher), meeting)


def follows() -> bool:
    """Whether this process is a rank that writes nothing."""
    found = place()
    return found is not None and found.rank > 0
