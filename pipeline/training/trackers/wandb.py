"""Weights & Biases: WANDB_API_KEY, WANDB_MODE and the others say who logs, and where to."""

from pathlib import Path

import wandb

from pipeline.training.trackers import Run


class Tracker:
    def __init__(self, run: Run) -> None:
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
