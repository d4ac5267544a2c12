"""AdamW whose moments travel between rounds as safetensors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.core import verified
from pipeline.core.errors import UserError
from pipeline.core.files import replacing

if TYPE_CHECKING:
    from pipeline.training.process_group import Group

MOMENTS = ("exp_avg", "exp_avg_sq")
# bitsandbytes' names; small weights have no blocks, so no codes and scales of these
MOMENTS_8 = ("state1", "state2")
BLOCKS_8 = ("qmap1", "qmap2", "absmax1", "absmax2")
Bits = Literal[8] | None  # of a moment; None: 32


def save_none(path: Path) -> None:
    """The state before any step: no moments."""
    _write({"step": torch.zeros((), dtype=torch.int64)}, path)


class Optimizer:
    """AdamW without weight decay, linear warm-up, gradient clipping by global norm.

    Weights are float32 whatever dtype the checkpoint has; with a coarser one, `save` keeps the
    float32 weights, with moments or without, so that small updates survive the rounds. With `bits`
    8 the moments are kept in blocks of 8-bit numbers with a scale each, through bitsandbytes. With
    a `group` each process has its shard of every weight and moment; the first one writes files.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        lr: float,
        betas: tuple[float, float],
        warmup: int,
        clip: float,
        bits: Bits = None,
        group: "Group | None" = None,
    ) -> None:
        self.group = group
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.lr, self.warmup, self.clip, self.steps = lr, warmup, clip, 0
        adam = torch.optim.AdamW if bits is None else _adam_8bit()
        self.adam = adam(list(self.named.values()), lr=lr, betas=betas, weight_decay=0.0)
        self.moments = MOMENTS if bits is None else MOMENTS_8

    def step(self, grads: list[torch.Tensor]) -> dict[str, float]:
        """Apply summed gradients. Returns the norm before clipping, whether it clipped, the lr."""
        for parameter, grad in zip(self.named.values(), grads, strict=True):
            parameter.grad = grad
        clipped = torch.nn.utils.clip_grad_norm_(self.named.values(), self.clip)
        norm = float(clipped) if self.group is None else self.group.number(clipped)
        self.steps += 1
        lr = self.lr * min(1.0, self.steps / max(self.warmup, 1))
        self.adam.param_groups[0]["lr"] = lr
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return {
            "train/grad_norm": norm,
            "train/clipped": float(norm > self.clip),
            "train/lr": lr,
        }

    def stay(self) -> dict[str, float]:
        """Take no step. Returns what `step` does, of nothing."""
        return {"train/grad_norm": 0.0, "train/clipped": 0.0, "train/lr": 0.0}

    def load(self, path: Path, moments: bool = True) -> None:
        """Take up what is in `path`, or of it the weights alone. Raises UserError if it is of
        another model."""
        verified.once(path)
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: no optimizer state ({error}). Run `dvc repro`.") from error
        if not moments:
            weights = {name: x for name, x in state.items() if name.startswith("weight.")}
            state = {"step": torch.tensor(0), **weights}
        self.take_up(state, path)

    def take_up(self, state: dict[str, torch.Tensor], path: Path) -> None:
        """Go on from `state`, which is of `path`. Raises UserError if it is of another model."""
        self.steps = int(state["step"])
        for name, parameter in self.named.items():
            if f"weight.{name}" in state:
                parameter.data.copy_(self._shard(state[f"weight.{name}"], parameter))
            if not self.steps or len(state) == 1:
                continue
            if any(f"{moment}.{name}" not in state for moment in self.moments):
                raise UserError(f"{path}: lacks moments of {name}. Rerun the stage that wrote it.")
            self.adam.state[parameter] = {
                "step": torch.tensor(float(self.steps)) if self.moments is MOMENTS else self.steps,
                **{
                    key: self._shard(state[f"{key}.{name}"], parameter)
                    for key in (*self.moments, *BLOCKS_8)
                    if f"{key}.{name}" in state
                },
            }

    def save(self, path: Path, keep_weights: bool, moments: bool = True) -> None:
        state = self.state(keep_weights, moments)
        if self.group is None or self.group.first:
            _write(state, path)

    def state(self, keep_weights: bool, moments: bool = True) -> dict[str, torch.Tensor]:
        """Steps, moments and float32 weights, as far as wanted, on the first process's CPU."""
        state = {"step": torch.tensor(self.steps if moments else 0, dtype=torch.int64)}
        for name, parameter in self.named.items():
            kept = self.adam.state[parameter] if moments else {}
            for key in (k for k in (*self.moments, *BLOCKS_8) if k in kept):
                # weights share their codes, and safetensors takes no tensor twice
                moment = kept[key].clone() if key in BLOCKS_8 else kept[key]
                state[f"{key}.{name}"] = self._full_tensor(moment).contiguous()
            if keep_weights:
                state[f"weight.{name}"] = self._full_tensor(parameter.detach()).contiguous()
        return state

    def _full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu() if self.group is None else self.group.full_tensor(tensor)

    def _shard(self, full: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        if self.group is None:
            return full.to(parameter.device)
        return self.group.shard(full, parameter)


def _adam_8bit() -> Any:
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise UserError(
            "train.moment_bits: found 8, which needs bitsandbytes, not installed here. Run `pip "
            "install -c constraints.txt 'omniopd-pipeline[bitsandbytes]'`, or set it to null."
        ) from error
    return AdamW8bit


def _write(state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        with replacing(path) as temporary:
            save_file(state, temporary)
    except SafetensorError as error:  # what a full disk looks like to safetensors
        raise UserError(f"{path}: could not be written ({error}). Free space.") from error
