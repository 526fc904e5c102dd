"""Downloads of models and artifacts."""

import atexit
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote

from trialrun.errors import (
    InvalidParameterError,
    TrackingError,
    redact_credentials,
    summarize_error,
)
from trialrun.files import translate_storage_errors
from trialrun.mlflow_client.errors import suggest_package, suggest_remedy

FILE_SCHEME = "file:"
# URIs that MLflow downloads, or finds on this machine; anything else is a path.
URI_SCHEMES = (
    "runs:/",
    "models:/",
    "mlflow-artifacts:/",
    "dbfs:/",
    FILE_SCHEME,
    "ftp://",
    "gs://",
    "hdfs://",
    "http://",
    "https://",
    "s3://",
    "sftp://",
    "wasbs://",
    "abfss://",
)

_MODELS = "models:/"


def download_artifact(uri: str, folder: Path | None = None) -> Path:
    """Download `uri` into `folder` and return the local path.

    Without `folder`, the copy is deleted when the process ends. A model with local files and a
    file: URI are not copied.

    Raises:
        TrackingError: MLflow cannot download `uri`.
        StorageError: The temporary folder cannot be created.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    if uri.startswith(FILE_SCHEME):
        return find_file(uri)
    try:
        if is_local_model(uri):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
        folder = folder or create_exit_folder()
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except ImportError as error:
        raise _download_error(uri, error, suggest_package(error)) from error
    except (MlflowException, OSError) as error:
        hint = suggest_remedy(str(error), "Check the URI and MLFLOW_TRACKING_URI.")
        raise _download_error(uri, error, hint) from error


def find_file(uri: str) -> Path:
    """Return the path that a file: URI names, with %20 and the like decoded.

    A file whose name has the undecoded text is found too.

    Raises:
        InvalidParameterError: The URI names another machine.
    """
    text = uri.removeprefix(FILE_SCHEME)
    if text.startswith("//"):
        host, slash, rest = text[2:].partition("/")
        if host not in ("", "localhost"):
            raise InvalidParameterError(
                f"{uri} is a file of the machine {host}", "Mount its disk, and give the path."
            )
        text = slash + rest
    decoded = Path(unquote(text, errors="surrogateescape"))
    return Path(text) if Path(text).exists() and not decoded.exists() else decoded


def _download_error(uri: str, error: Exception, hint: str) -> TrackingError:
    message = f"{uri} cannot be downloaded: {summarize_error(error)}"
    return TrackingError(redact_credentials(message), hint)


def is_local_model(uri: str) -> bool:
    """Whether `uri` is a model whose files are in a local folder, so that MLflow need not copy."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    if not uri.startswith(_MODELS):
        return False
    return isinstance(getattr(get_artifact_repository(uri), "repo", None), LocalArtifactRepository)


def create_exit_folder() -> Path:
    """Create a temporary folder that is deleted when the process ends.

    Raises:
        StorageError: It cannot be created.
    """
    with translate_storage_errors(Path("a temporary folder")):
        folder = Path(tempfile.mkdtemp(prefix="trialrun-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
