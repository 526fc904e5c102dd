"""The connection to the tracking store."""

from typing import TYPE_CHECKING

from trialrun.mlflow_client.errors import translate_tracking_errors
from trialrun.mlflow_client.settings import apply_settings
from trialrun.mlflow_client.stores import check_database, prepare_store
from trialrun.mlflow_client.tracking_uri import resolve_uris

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect_client() -> "MlflowClient":
    """Return a client of the store in MLFLOW_TRACKING_URI; MLflow's default is ./mlflow.db.

    The variable gets the absolute address, for child processes and later changes of the folder. A
    missing database is created; any number of processes may do so at once.

    Raises:
        TrackingError: The server does not answer, or the database cannot be used.
    """
    apply_settings()
    import mlflow
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors("the tracking store cannot be opened"):
        uris = resolve_uris()
        for uri in uris:
            prepare_store(uri)
        try:
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
        except MlflowException:
            for uri in uris:
                check_database(uri)  # MLflow's message does not say how the schemas differ
            raise
    return client
