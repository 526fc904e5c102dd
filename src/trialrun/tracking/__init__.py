"""MLflow runs and their dataset inputs.

The functions import MLflow themselves, because the import takes over a second.
"""

from trialrun.tracking.datasets import make_dataset_input, truncate_digest
from trialrun.tracking.run import (
    DELETED,
    MAX_PARAM_LENGTH,
    PARENT_TAG,
    TrackedRun,
    find_project_run,
    find_run,
    kill_unopened_run,
    open_nested_run,
    open_run,
)

__all__ = [
    "DELETED",
    "MAX_PARAM_LENGTH",
    "PARENT_TAG",
    "TrackedRun",
    "find_project_run",
    "find_run",
    "kill_unopened_run",
    "make_dataset_input",
    "open_nested_run",
    "open_run",
    "truncate_digest",
]
