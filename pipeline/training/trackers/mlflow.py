"""MLflow: MLFLOW_TRACKING_URI, or a database in .trackers for `mlflow ui`."""

import os
from pathlib import Path

import mlflow

from pipeline.training.trackers import Run


class Tracker:
    def __init__(self, run: Run) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            Path(".trackers").mkdir(exist_ok=True)
            mlflow.set_tracking_uri("sqlite:///.trackers/mlflow.db")
        mlflow.set_experiment(run.project)
        mlflow.start_run(run_name=run.name, tags={"group": run.group})
        mlflow.log_params(run.config)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        mlflow.log_metrics(metrics, step=step)

    def close(self) -> None:
        mlflow.end_run()
