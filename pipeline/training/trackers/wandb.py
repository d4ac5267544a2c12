"""Weights & Biases: WANDB_API_KEY, WANDB_MODE and the others say who logs, and where to."""

import os
from pathlib import Path

import wandb

from pipeline.core.errors import UserError
from pipeline.training.trackers import Run


class Tracker:
    def __init__(self, run: Run) -> None:
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            # on a terminal it would ask for one, and the stage wait for an answer
            raise UserError(
                "runtime.log_to: found wandb without a key, wanted WANDB_API_KEY, what `wandb "
                "login` keeps, or WANDB_MODE=offline. Set one of them, or leave wandb out."
            )
        Path(".trackers").mkdir(exist_ok=True)
        # what a stage prints stays here
        settings = wandb.Settings(console="off", silent=True, disable_git=True)
        self._run = wandb.init(
            project=run.project,
            group=run.group,
            name=run.name,
            config=run.config,
            dir=".trackers",
            save_code=False,
            settings=settings,
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()
