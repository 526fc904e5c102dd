"""The MLflow client: connection, downloads, experiments, translated errors and retries.

The functions import MLflow themselves, because the import takes over a second.
"""

from trialrun.mlflow_client.client import (
    URI_SCHEMES,
    connect_client,
    describe_experiment,
    download_artifact,
    find_experiment_id,
    restore_mlflow_settings,
)
from trialrun.mlflow_client.conflicts import retry_conflicts
from trialrun.mlflow_client.errors import redact_credentials, translate_tracking_errors
from trialrun.mlflow_client.outages import is_answering, is_outage

__all__ = [
    "URI_SCHEMES",
    "connect_client",
    "describe_experiment",
    "download_artifact",
    "find_experiment_id",
    "is_answering",
    "is_outage",
    "redact_credentials",
    "restore_mlflow_settings",
    "retry_conflicts",
    "translate_tracking_errors",
]
