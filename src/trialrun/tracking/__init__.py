"""MLflow runs, the journal of their records, and their dataset inputs.

The functions import MLflow themselves, because the import takes over a second.
"""

from trialrun.tracking.creation import PARENT_TAG, find_project_run
from trialrun.tracking.datasets import make_dataset_input, truncate_digest
from trialrun.tracking.opening import JournalOptions
from trialrun.tracking.records import MAX_PARAM_LENGTH
from trialrun.tracking.replay import RecordHandler, RunTarget
from trialrun.tracking.run import (
    DELETED,
    TrackedRun,
    find_run,
    kill_unopened_run,
    open_nested_run,
    open_run,
)

__all__ = [
    "DELETED",
    "MAX_PARAM_LENGTH",
    "PARENT_TAG",
    "JournalOptions",
    "RecordHandler",
    "RunTarget",
    "TrackedRun",
    "find_project_run",
    "find_run",
    "kill_unopened_run",
    "make_dataset_input",
    "open_nested_run",
    "open_run",
    "truncate_digest",
]
