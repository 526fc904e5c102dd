"""A ModelDirectory as MLflow's LoggedModel, and as a version of a registered model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.errors import InvalidModelDirectoryError, TrackingError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.models import directory

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MODEL_NAME = "model"  # so that runs:/ID/model finds it


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model that MLflow holds."""

    model_id: str

    @property
    def uri(self) -> str:
        """What loads it anywhere in MLflow."""
        return f"models:/{self.model_id}"


def create_model(
    client: "MlflowClient",
    *,
    experiment_id: str,
    run_id: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> LoggedModel:
    """An entry for the model of a run, not ready yet: its files come with `upload`.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors("the model cannot be recorded"):
        model = client.create_logged_model(
            experiment_id,
            name=_MODEL_NAME,
            source_run_id=run_id,
            tags=dict(tags),
            params=dict(params),
            model_type="image-classifier",
        )
    return LoggedModel(model.model_id)


def upload_model(
    client: "MlflowClient", model: LoggedModel, folder: Path, *, run_id: str, step: int
) -> None:
    """Store a complete ModelDirectory as `model`, and declare it ready once it arrived whole.

    Raises:
        TrackingError: The upload failed, or what arrived is not what was sent.
        StorageError: The artifacts' disk is full, or may not be written to.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    with (
        _fail_unless_complete(client, model),
        translate_tracking_errors("the model cannot be stored"),
    ):
        client.log_model_artifacts(model.model_id, str(folder))
        _check_arrived(model)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


@contextmanager
def _fail_unless_complete(client: "MlflowClient", model: LoggedModel) -> Iterator[None]:
    """Call the model failed, if the store still listens, where the block does not end well."""
    from mlflow.entities import LoggedModelStatus

    try:
        yield
    except BaseException:
        with (
            suppress(TrialrunError),
            translate_tracking_errors("the model cannot be called failed"),
        ):
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise


def _check_arrived(model: LoggedModel) -> None:
    """Fetch the model back and hold it to its manifest: a version must never be half a model."""
    import mlflow

    with scratch_directory() as scratch:
        arrived = mlflow.artifacts.download_artifacts(artifact_uri=model.uri, dst_path=str(scratch))
        try:
            directory.read_model_directory(Path(arrived))
        except InvalidModelDirectoryError as error:
            raise TrackingError(
                f"the stored model is not what was sent: {error}", "Check the artifact store."
            ) from error


def register_version(
    client: "MlflowClient", model: LoggedModel, *, name: str, run_id: str, tags: Mapping[str, str]
) -> str:
    """Make `model` the next version of the registered model `name`; the version's number.

    Raises:
        TrackingError: The registry fails or does not take the name.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"the model cannot be registered as {name}"):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name, source=model.uri, run_id=run_id, tags=dict(tags), model_id=model.model_id
        )
    return str(version.version)
