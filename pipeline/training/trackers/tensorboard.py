"""TensorBoard: event files in .trackers/tensorboard, for `tensorboard --logdir` of that folder."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pipeline.training.trackers import Run


class Tracker:
    def __init__(self, run: Run) -> None:
        self._writer = SummaryWriter(Path(".trackers/tensorboard") / run.group / run.name)
        self._writer.add_text("params", f"`{run.config}`")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
