"""MLflow runs, the journal of their records, and their dataset inputs.

The functions import MLflow themselves, because the import takes over a second.
"""

from trialrun.tracking.creation import PARENT_TAG, describe_project_run, find_project_run
from trialrun.tracking.datasets import make_dataset_input, truncate_digest
from trialrun.tracking.heartbeat import HEARTBEAT_TAG, Heartbeat, make_heartbeat, parse_heartbeat
from trialrun.tracking.journal import Journal, count_unsent, find_failure, has_journal
from trialrun.tracking.opening import JournalOptions, name_store
from trialrun.tracking.records import MAX_PARAM_LENGTH
from trialrun.tracking.replay import RecordHandler, Replayer, RunTarget, send_all
from trialrun.tracking.run import (
    DELETED,
    TrackedRun,
    find_run,
    kill_unopened_run,
    open_nested_run,
    open_run,
)
from trialrun.tracking.system_metrics import PREFIX as SYSTEM_PREFIX
from trialrun.tracking.widgets import list_tables, log_image, log_table

__all__ = [
    "DELETED",
    "HEARTBEAT_TAG",
    "MAX_PARAM_LENGTH",
    "PARENT_TAG",
    "SYSTEM_PREFIX",
    "Heartbeat",
    "Journal",
    "JournalOptions",
    "RecordHandler",
    "Replayer",
    "RunTarget",
    "TrackedRun",
    "count_unsent",
    "describe_project_run",
    "find_failure",
    "find_project_run",
    "find_run",
    "has_journal",
    "kill_unopened_run",
    "list_tables",
    "log_image",
    "log_table",
    "make_dataset_input",
    "make_heartbeat",
    "name_store",
    "open_nested_run",
    "open_run",
    "parse_heartbeat",
    "send_all",
    "truncate_digest",
]
