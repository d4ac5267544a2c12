"""A group of several processes: weights are sharded with FSDP2, a step's sequences dealt out.

FSDP2 (`fully_shard`) keeps a shard of each weight, gradient and moment on each rank and gathers a
layer's weights while it computes. We use it directly and not through accelerate, which wants to
own the model, the optimizer and one backward pass from one scalar: our loop goes through the body
of the model without its head, and back through it from the gradients of its hidden states.

The head is no unit of FSDP2, as its forward never runs: its weight is gathered for the slices of a
micro-batch, and its gradient summed afterwards. A step's sequences are dealt out by length, so
that ranks have like work. A rank with fewer micro-batches than another goes through the model with
one token that carries no term, as every rank has to take part in every exchange.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.engines.hf import Policy
from pipeline.method.objectives import Sequence
from pipeline.training.process_group import squares

if TYPE_CHECKING:
    from pipeline.engines.hf import Frozen
    from pipeline.training.process_group import Cut, Kept, Place

# of one exchange: the first rank writes files while the others wait. Ranks that die are noticed
# by the launcher, long before.
PATIENCE = timedelta(hours=6)
NONE = np.zeros(0)
EMPTY = Sequence([0], [], NONE.astype(bool), NONE.astype(np.float32), NONE.astype(bool), None)


@contextmanager
def joined(place: "Place", device: str) -> Iterator["Sharded"]:
    """The group that this rank is in, once all have come."""
    how = "gloo" if device == "cpu" else _take_gpu(place.rank)
    dist.init_process_group(
        how,
        init_method=f"file://{place.meeting}",
        rank=place.rank,
        world_size=place.size,
        timeout=PATIENCE,
    )
    yield Sharded(init_device_mesh(device, (place.size,)), place.rank, place.size)
    dist.destroy_process_group()


def _take_gpu(rank: int) -> str:
    """Compute on the GPU of this number; the backends for its tensors and the CPU's."""
    torch.cuda.set_device(rank)
    return "cpu:gloo,cuda:nccl"


@dataclass(frozen=True)
class Shards(Policy):
    """A policy of which this process has a shard. Its head works while its weight is gathered."""

    gathered: dict[str, torch.Tensor] = field(default_factory=dict)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = hidden.float() @ self.gathered["head"].T
        return logits.masked_fill(self.unused_vocab_mask, torch.finfo(torch.float32).min)


def _local(grad: torch.Tensor) -> torch.Tensor:
    """This process's shard of a gradient, which all are."""
    assert isinstance(grad, DTensor)
    return grad.to_local()


class Sharded:
    """See `pipeline.training.process_group.Group`."""

    def __init__(self, mesh: DeviceMesh, rank: int, count: int) -> None:
        self.mesh, self.rank, self.count = mesh, rank, count
        self.first = rank == 0

    def device(self, wanted: str) -> str:
        return "cpu"  # from where each rank takes its shard to its GPU, a layer at a time

    def batches(self, sequences: list[Sequence], cut: "Cut") -> Iterator[list[Sequence]]:
        ordered = sorted(sequences, key=lambda s: len(s.context_ids) + len(s.token_ids))
        batches = [list(cut(ordered[rank :: self.count])) for rank in range(self.count)]
        mine = batches[self.rank]
        yield from mine
        for _ in range(max(map(len, batches)) - len(mine)):
            yield [EMPTY]

    def spread(self, student: Policy, frozen: "Frozen") -> "tuple[Shards, Frozen]":
        found: dict[int, Shards] = {}
        for policy in (student, *frozen):
            if policy is not None and id(policy) not in found:
                found[id(policy)] = self._spread(policy)
        beside = (None if policy is None else found[id(policy)] for policy in frozen)
        return found[id(student)], type(frozen)(*beside)

    def _spread(self, policy: Policy) -> Shards:
        model = policy.model
        body: Any = model.base_model
        inside, head = model.get_input_embeddings(), model.get_output_embeddings()
        tied = inside.weight is head.weight
        units = [m for m in body.modules() if isinstance(m, GradientCheckpointingLayer)]
        for unit in (*units, body):
            fully_shard(unit, mesh=self.mesh, reshard_after_forward=True)
        for unit in body.modules():
            if isinstance(unit, FSDPModule):  # gradients are sums over the step, not means
                unit.set_gradient_divide_factor(1.0)
                unit.set_force_sum_reduction_for_comms(True)
        if tied:
            head.weight = inside.weight
        else:
            dealt = self._deal(head.weight.detach())
            head.weight = torch.nn.Parameter(dealt, head.weight.requires_grad)
        return Shards(model, policy.tokenizer, policy.unused_vocab_mask.to(self.mesh.device_type))

    def _deal(self, full: torch.Tensor) -> DTensor:
        """Shard over the ranks, by its first axis, a tensor that every rank has."""
        moved = full.to(self.mesh.device_type)
        found = distribute_tensor(moved, self.mesh, [Shard(0)], src_data_rank=None)
        mine = found.to_local().clone()  # it was a view, which would keep all of it in memory
        return DTensor.from_local(
            mine, self.mesh, [Shard(0)], run_check=False, shape=full.shape, stride=full.stride()
        )

    @contextmanager
    def heads(self, student: Policy, frozen: "Frozen") -> Iterator[torch.Tensor]:
        policies = [p for p in (student, *frozen) if isinstance(p, Shards)]
        for policy in policies:
            weight: Any = policy.model.get_output_embeddings().weight
            if "head" not in policy.gathered:
                full = weight.detach().full_tensor().float()
                policy.gathered["head"] = full.requires_grad_(weight.requires_grad)
        yield policies[0].gathered["head"]
        for policy in policies:
            policy.gathered.clear()

    def any_rank(self, flags: list[bool]) -> list[bool]:
        return [value > 0 for value in self.all_reduce_sum([float(flag) for flag in flags])]

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        found: list[float] = tensor.tolist()
        return found

    def backward(
        self,
        hidden_TH: torch.Tensor,
        parameters: list[torch.nn.Parameter],
        grad_TH: torch.Tensor,
        again: bool,
    ) -> list[torch.Tensor | None]:
        torch.autograd.backward(hidden_TH, grad_TH, retain_graph=again)
        found = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        return found

    def reduce_scatter(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        found = DTensor.from_local(full, self.mesh, [Partial()], run_check=False)
        return found.redistribute(placements=[Shard(0)])

    def norm(self, grads: list[torch.Tensor], less: list[torch.Tensor] | None = None) -> float:
        mine = squares([*map(_local, grads)], less and [*map(_local, less)])
        return math.sqrt(self.all_reduce_sum([mine])[0])

    def number(self, scalar: torch.Tensor) -> float:
        return float(scalar.full_tensor() if isinstance(scalar, DTensor) else scalar)

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        return found.cpu() if self.first else torch.empty(0)

    def gathered(self, student: Policy, again: Callable[[], Policy]) -> Policy | None:
        found = again() if self.first else None
        own = {} if found is None else dict(found.model.named_parameters())
        for name, parameter in student.model.named_parameters():
            if parameter.requires_grad:  # one at a time: a GPU need not have room for all
                full = self.full_tensor(parameter.detach())
                if name in own:
                    own[name].data.copy_(full)
        return found

    def shard(self, full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if not self.first:
            full = torch.empty(full.shape, dtype=full.dtype)
        moved = full.to(self.mesh.device_type)
        return distribute_tensor(moved, self.mesh, [Shard(0)], src_data_rank=0)

    def broadcast_object(self, kept: "Kept | None") -> "Kept | None":
        said: list[Any] = [None]
        if kept is not None:
            # the steps' number is a scalar, and known to all
            tensors = {n: t if t.ndim == 0 else t.to("meta") for n, t in kept[0].items()}
            said = [(tensors, kept[1])]
        dist.broadcast_object_list(said)
        return kept if self.first else said[0]
