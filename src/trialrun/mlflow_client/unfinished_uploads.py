"""Files that an interrupted process leaves among the artifacts of a run."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow 3.17 writes an artifact of a local folder under such a name and renames it when it is
# complete. Its own listings leave these files out, and nothing deletes them after a kill.
PREFIX = ".artifact.uploading."


def delete_unfinished_uploads(client: "MlflowClient", run_id: str) -> None:
    """Delete what was left of broken uploads, if the run's artifacts are in a local folder.

    Call it when no upload to the run is in progress.

    Raises:
        MlflowException: The run cannot be read.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    uri = client.get_run(run_id).info.artifact_uri
    if not uri or not is_local_uri(uri):
        return
    for path in Path(local_file_uri_to_path(uri)).rglob(f"{PREFIX}*"):
        with suppress(OSError):
            path.unlink()
