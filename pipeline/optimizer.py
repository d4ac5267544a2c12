"""AdamW whose moments travel between rounds as safetensors."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.tables import replacing

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_none(path: Path) -> None:
    """The state before any step: no moments."""
    _write({"step": torch.zeros((), dtype=torch.int64)}, path)


class Optimizer:
    """AdamW without weight decay, linear warm-up, gradient clipping by global norm.

    Weights are float32 whatever dtype the checkpoint has; with a coarser one, `save` keeps the
    float32 weights beside the moments, so that small updates survive the rounds.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        lr: float,
        betas: tuple[float, float],
        warmup: int,
        clip: float,
    ) -> None:
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.lr, self.warmup, self.clip, self.steps = lr, warmup, clip, 0
        self.adam = torch.optim.AdamW(self.named.values(), lr=lr, betas=betas, weight_decay=0.0)

    def step(self, grads: list[torch.Tensor]) -> dict[str, float]:
        """Apply summed gradients. Returns the norm before clipping, whether it clipped, the lr."""
        for parameter, grad in zip(self.named.values(), grads, strict=True):
            parameter.grad = grad
        norm = float(torch.nn.utils.clip_grad_norm_(self.named.values(), self.clip))
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

    def load(self, path: Path) -> None:
        """Take up the moments in `path`. Raises UserError if they are of another model."""
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: no optimizer state ({error}). Run `dvc repro`.") from error
        self.take_up(state, path)

    def take_up(self, state: dict[str, torch.Tensor], path: Path) -> None:
        """Go on from `state`, which is of `path`. Raises UserError if it is of another model."""
        self.steps = int(state["step"])
        if not self.steps or len(state) == 1:
            return
        for name, parameter in self.named.items():
            if any(f"{moment}.{name}" not in state for moment in MOMENTS):
                raise UserError(f"{path}: lacks moments of {name}. Rerun the stage that wrote it.")
            self.adam.state[parameter] = {
                "step": torch.tensor(float(self.steps)),
                **{moment: state[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS},
            }
            if f"weight.{name}" in state:
                parameter.data.copy_(state[f"weight.{name}"])

    def save(self, path: Path, keep_weights: bool) -> None:
        _write(self.state(keep_weights), path)

    def state(self, keep_weights: bool) -> dict[str, torch.Tensor]:
        """Steps and moments, with the float32 weights if wanted, on the CPU."""
        state = {"step": torch.tensor(self.steps, dtype=torch.int64)}
        for name, parameter in self.named.items():
            for moment in MOMENTS:
                state[f"{moment}.{name}"] = self.adam.state[parameter][moment].cpu().contiguous()
            if keep_weights:
                state[f"weight.{name}"] = parameter.detach().cpu().contiguous()
        return state


def _write(state: dict[str, torch.Tensor], path: Path) -> None:
    try:
        with replacing(path) as temporary:
            save_file(state, temporary)
    except SafetensorError as error:  # what a full disk looks like to safetensors
        raise UserError(f"{path}: could not be written ({error}). Free space.") from error
