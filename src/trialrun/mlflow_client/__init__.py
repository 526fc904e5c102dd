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

__all__ = [
    "URI_SCHEMES",
    "connect_client",
    "describe_experiment",
    "download_artifact",
    "find_experiment_id",
    "redact_credentials",
    "restore_mlflow_settings",
    "retry_conflicts",
    "translate_tracking_errors",
]
