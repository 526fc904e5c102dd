"""The MLflow record of a run. MLflow is imported inside the functions: it takes over a second."""

from trialrun.tracking.datasets import dataset_digest, dataset_input
from trialrun.tracking.run import (
    PARENT_TAG,
    TrackedRun,
    kill_unopened_run,
    open_nested_run,
    open_run,
    opened_by_mlflow,
)

__all__ = [
    "PARENT_TAG",
    "TrackedRun",
    "dataset_digest",
    "dataset_input",
    "kill_unopened_run",
    "open_nested_run",
    "open_run",
    "opened_by_mlflow",
]
