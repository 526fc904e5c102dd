"""Logging of model directories as MLflow LoggedModels and registration of their versions."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.errors import InvalidModelDirectoryError, TrackingError, TrialrunError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import (
    is_local_model,
    is_outage,
    retry_conflicts,
    translate_tracking_errors,
)
from trialrun.models import directory

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_DESCRIPTION = 5000  # characters that the registry stores
_VERSIONS_TAG = "mlflow.modelVersions"  # of a LoggedModel: MLflow's pages link these versions
_MODEL_NAME = "model"  # so that runs:/ID/model finds it


def format_run_address(run_id: str) -> str:
    """Return the address of the model that a run has logged."""
    return f"runs:/{run_id}/{_MODEL_NAME}"


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model in the MLflow store."""

    model_id: str

    @property
    def uri(self) -> str:
        """The URI that MLflow loads the model from."""
        return f"models:/{self.model_id}"


def find_or_create_model(
    client: "MlflowClient",
    *,
    experiment_id: str,
    run_id: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> LoggedModel:
    """Return the LoggedModel of a run with these tags, which an earlier attempt may have created.

    It is not ready until `upload_model` has stored its files.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors("the model cannot be created"):
        models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        for model in models:
            if model.name == _MODEL_NAME and tags.items() <= model.tags.items():
                return LoggedModel(model.model_id)
        created = client.create_logged_model(
            experiment_id,
            name=_MODEL_NAME,
            source_run_id=run_id,
            tags=dict(tags),
            params=dict(params),
            model_type="image-classifier",
        )
    return LoggedModel(created.model_id)


def upload_model(
    client: "MlflowClient", model: LoggedModel, folder: Path, *, run_id: str, step: int
) -> None:
    """Upload a ModelDirectory as the files of `model`, verify the upload and mark the model ready.

    A model that is ready already is not uploaded again.

    Raises:
        TrackingError: The upload failed, or the stored files differ from `folder`.
        StorageError: The artifact store's disk is full or not writable.
    """
    from mlflow.entities import LoggedModelStatus

    with (
        _fail_unless_complete(client, model),
        translate_tracking_errors("the model cannot be stored"),
    ):
        if client.get_logged_model(model.model_id).status != LoggedModelStatus.READY:
            client.log_model_artifacts(model.model_id, str(folder))
            _check_upload(model)
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        link_output(client, model, run_id=run_id, step=step)


def link_output(client: "MlflowClient", model: LoggedModel, *, run_id: str, step: int) -> None:
    """Link a model to a run as its output, unless it is linked already.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.entities import LoggedModelOutput

    with translate_tracking_errors("the model cannot be linked to its run"):
        outputs = client.get_run(run_id).outputs
        linked = [item.model_id for item in outputs.model_outputs] if outputs else []
        if model.model_id not in linked:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


@contextmanager
def _fail_unless_complete(client: "MlflowClient", model: LoggedModel) -> Iterator[None]:
    """Mark the model as failed if the block raises, unless the store is away and will be back.

    An error while doing so is ignored.
    """
    from mlflow.entities import LoggedModelStatus

    try:
        yield
    except BaseException as error:
        if is_outage(error):
            raise
        with (
            suppress(TrialrunError),
            translate_tracking_errors("the model cannot be marked as failed"),
        ):
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise


def _check_upload(model: LoggedModel) -> None:
    """Check the stored files against their manifest, so that no version is incomplete.

    They are downloaded, or read where they are if that is a local folder.
    """
    import mlflow

    with scratch_directory() as scratch:
        target = None if is_local_model(model.uri) else str(scratch)
        folder = mlflow.artifacts.download_artifacts(artifact_uri=model.uri, dst_path=target)
        try:
            directory.verify_model_directory(Path(folder))
        except InvalidModelDirectoryError as error:
            raise TrackingError(
                f"the stored model differs from the uploaded one: {error}",
                "Check the artifact store.",
            ) from error


def register_once(
    client: "MlflowClient",
    model: LoggedModel,
    *,
    name: str,
    run_id: str,
    tags: Mapping[str, str],
    card: str,
) -> str:
    """Return the number of the version of `name` that is `model`; register it if necessary.

    `card` is as for `register_version`; a version that has a description keeps it.

    Raises:
        TrackingError: The registry fails or rejects the name.
    """
    with translate_tracking_errors(f"the model cannot be registered as {name}"):
        # Not by name: MLflow's filters have no escape for the quotes that a name may hold.
        versions = client.search_model_versions(f"run_id = '{run_id}'")
    for version in versions:
        if version.name == name and version.source == model.uri:
            if not version.description:
                _describe_version(client, name, str(version.version), run_id, card)
            _name_version(client, model, name, str(version.version))
            return str(version.version)
    return register_version(client, model, name=name, run_id=run_id, tags=tags, card=card)


def register_version(
    client: "MlflowClient",
    model: LoggedModel,
    *,
    name: str,
    run_id: str,
    tags: Mapping[str, str],
    card: str,
) -> str:
    """Register `model` as the next version of `name` and return the version number.

    `card` becomes the version's description, with the version's address in place of the run's.

    Raises:
        TrackingError: The registry fails or rejects the name.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"the model cannot be registered as {name}"):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = retry_conflicts(
            lambda: client.create_model_version(
                name, source=model.uri, run_id=run_id, tags=dict(tags), model_id=model.model_id
            )
        )
    number = str(version.version)
    _describe_version(client, name, number, run_id, card)
    _name_version(client, model, name, number)
    return number


def _name_version(client: "MlflowClient", model: LoggedModel, name: str, number: str) -> None:
    """Add the version to the model's tag with which MLflow links it, as `mlflow.register_model`."""
    version = {"name": name, "version": number}
    with translate_tracking_errors(f"version {number} of {name} cannot be linked to its model"):
        known = json.loads(client.get_logged_model(model.model_id).tags.get(_VERSIONS_TAG, "[]"))
        if version not in known:
            tags = {_VERSIONS_TAG: json.dumps([*known, version])}
            client.set_logged_model_tags(model.model_id, tags)


def _describe_version(
    client: "MlflowClient", name: str, version: str, run_id: str, card: str
) -> None:
    if not card:
        return
    address = f"models:/{name}/{version}"
    if shlex.quote(address) == address:  # the card has it in commands
        card = card.replace(format_run_address(run_id), address)
    with translate_tracking_errors(f"version {version} of {name} cannot be described"):
        client.update_model_version(name, version, card[:_MAX_DESCRIPTION])
