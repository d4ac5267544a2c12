"""trackio: TRACKIO_DIR, or its own folder in the user's cache, for `trackio show`."""

import trackio

from pipeline.training.trackers import Run


class Tracker:
    def __init__(self, run: Run) -> None:
        self._run = trackio.init(
            project=run.project, group=run.group, name=run.name, config=run.config, embed=False
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()
