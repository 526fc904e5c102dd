"""The MLflow client: connection, stores, downloads, experiments, translated errors and retries.

The functions import MLflow themselves, because the import takes over a second.
"""

from trialrun.errors import redact_credentials
from trialrun.mlflow_client.client import connect_client
from trialrun.mlflow_client.conflicts import retry_conflicts
from trialrun.mlflow_client.downloads import (
    URI_SCHEMES,
    download_artifact,
    is_local_model,
)
from trialrun.mlflow_client.early_creation import create_store_early
from trialrun.mlflow_client.errors import translate_tracking_errors
from trialrun.mlflow_client.experiments import describe_experiment, find_experiment_id
from trialrun.mlflow_client.outages import is_answering, is_outage
from trialrun.mlflow_client.settings import restore_mlflow_settings
from trialrun.mlflow_client.stores import StoreState, describe_store
from trialrun.mlflow_client.tracking_uri import resolve_uris
from trialrun.mlflow_client.unfinished_uploads import delete_unfinished_uploads

__all__ = [
    "URI_SCHEMES",
    "StoreState",
    "connect_client",
    "create_store_early",
    "delete_unfinished_uploads",
    "describe_experiment",
    "describe_store",
    "download_artifact",
    "find_experiment_id",
    "is_answering",
    "is_local_model",
    "is_outage",
    "redact_credentials",
    "resolve_uris",
    "restore_mlflow_settings",
    "retry_conflicts",
    "translate_tracking_errors",
]
