"""A version of a registered model: where it came from, and what it was trained on."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError, TrackingError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import (
    URI_SCHEMES,
    connect_client,
    download_artifact,
    translate_tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

MANIFEST = "manifest.jsonl"  # of a training run: a JSON object a file
TRAINED_ON = "train"  # the manifest's name for the training set

_MODELS = "models:/"
_RUNS = "runs:/"
MODEL_SCHEMES = (_MODELS, _RUNS)


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """Which run and which LoggedModel something is; None where MLflow does not say."""

    run_id: str | None
    model_id: str | None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    number: str
    origin: ModelOrigin

    @property
    def uri(self) -> str:
        """What loads it anywhere in MLflow."""
        return f"{_MODELS}{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def check_version(number: str) -> None:
    """Hold a version to be a number or @alias.

    Raises:
        InvalidParameterError: It is neither.
    """
    if not number.startswith("@") and not number.isdecimal():
        raise InvalidParameterError(
            f"version={number} is neither a number nor @alias", "Take 3, say, or @champion."
        )


def find_version(client: "MlflowClient", name: str, number: str) -> ModelVersion:
    """Version `number`, or the one that holds `@alias`.

    Raises:
        InvalidParameterError: `number` is neither.
        TrackingError: There is no such model, version or alias.
    """
    check_version(number)
    with translate_tracking_errors(f"{name} version {number} cannot be found"):
        if number.startswith("@"):
            found = client.get_model_version_by_alias(name, number[1:])
        else:
            found = client.get_model_version(name, number)
    if found.status != "READY":
        raise TrackingError(
            f"{name} version {number} is not ready ({found.status})", "Register it again."
        )
    model_id = found.model_id or _model_id(found.source or "")
    return ModelVersion(
        name, str(found.version), _complete_origin(client, ModelOrigin(found.run_id, model_id))
    )


def version_exists(client: "MlflowClient", name: str, number: str) -> bool:
    """Whether version `number` has not been deleted.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"{name} version {number} cannot be found"):
        try:
            client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
    return True


def find_newest_existing(client: "MlflowClient", name: str, numbers: Iterable[str]) -> str | None:
    """The first of `numbers` that has not been deleted.

    Raises:
        TrackingError: The store fails.
    """
    return next((number for number in numbers if version_exists(client, name, number)), None)


def find_origin(client: "MlflowClient", model: str) -> ModelOrigin:
    """What MLflow knows of MODEL; nothing of a folder on this machine.

    Raises:
        TrackingError: It names a version, an alias or a run that is not there.
    """
    if model.startswith(_RUNS):
        run_id = model.removeprefix(_RUNS).partition("/")[0]
        return ModelOrigin(run_id, _find_model_of_run(client, run_id))
    if not model.startswith(_MODELS):
        return ModelOrigin(None, None)
    path = model.removeprefix(_MODELS)
    if "@" in path:
        name, _, alias = path.rpartition("@")
        return find_version(client, name, f"@{alias}").origin
    name, _, number = path.rpartition("/")
    if not name:
        return _complete_origin(client, ModelOrigin(None, number))
    return find_version(client, name, number).origin


def _model_id(source: str) -> str | None:
    path = source.removeprefix(_MODELS)
    return path if path != source and "/" not in path and "@" not in path else None


def _complete_origin(client: "MlflowClient", origin: ModelOrigin) -> ModelOrigin:
    """With the run that a LoggedModel names, where the version itself does not."""
    if origin.run_id or not origin.model_id:
        return ModelOrigin(origin.run_id or None, origin.model_id)
    with translate_tracking_errors(f"model {origin.model_id} cannot be read"):
        model = client.get_logged_model(origin.model_id)
    return ModelOrigin(model.source_run_id, origin.model_id)


def _find_model_of_run(client: "MlflowClient", run_id: str) -> str | None:
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return str(models[-1].model_id) if models else None


def read_file_hashes(
    client: "MlflowClient", run_id: str | None
) -> dict[str, frozenset[str]] | None:
    """The sha256 values of a training run's files by set; None where nothing records them.

    Raises:
        TrackingError: The store fails.
    """
    if run_id is None:
        return None
    rows = read_manifest(client, run_id)
    if rows is None:
        return None
    sets: dict[str, set[str]] = {TRAINED_ON: set()}
    for row in rows:
        sets.setdefault(str(row["set"]), set()).add(str(row["sha256"]))
    return {name: frozenset(hashes - {""}) for name, hashes in sets.items()}


def read_manifest(client: "MlflowClient", run_id: str) -> list[dict[str, object]] | None:
    """A training run's manifest; None where it has none."""
    text = read_artifact_text(client, run_id, MANIFEST)
    return None if text is None else [json.loads(line) for line in text.splitlines()]


def read_artifact_text(client: "MlflowClient", run_id: str, name: str) -> str | None:
    """The content of a run's file `name`; None where the run has none.

    Raises:
        TrackingError: The run is not there, or the store fails.
    """
    data = read_artifact_bytes(client, run_id, name)
    return None if data is None else data.decode("utf-8")


def read_artifact_bytes(client: "MlflowClient", run_id: str, name: str) -> bytes | None:
    """As `artifact_text`, undecoded."""
    with translate_tracking_errors(f"{name} of run {run_id} cannot be read"):
        if name not in _list_names(client, run_id):
            return None
        with scratch_directory() as scratch:
            return Path(client.download_artifacts(run_id, name, str(scratch))).read_bytes()


def _list_names(client: "MlflowClient", run_id: str) -> set[str]:
    return {entry.path for entry in client.list_artifacts(run_id)}


def link_models(client: "MlflowClient", run_id: str, model_ids: Iterable[str | None]) -> None:
    """Record which models a run used."""
    from mlflow.entities import LoggedModelInput

    models = [LoggedModelInput(model_id) for model_id in dict.fromkeys(model_ids) if model_id]
    if not models:
        return
    with translate_tracking_errors("the models cannot be linked"):
        client.log_inputs(run_id, models=models)


def find_model_folder(model: str) -> Path:
    """The folder of `models:/NAME/3`, `models:/NAME@alias`, `runs:/ID/model` or a path.

    What MLflow has elsewhere is downloaded, until the process ends.

    Raises:
        InvalidModelDirectoryError: There is no such folder.
        TrackingError: There is no such model, version, alias or run, or it cannot be downloaded.
    """
    if model.startswith(URI_SCHEMES):
        connect_client()  # so that a server which is not there is told soon
        return download_artifact(model)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InvalidModelDirectoryError(
            f"there is no model directory {model} (looked in {Path.cwd()})",
            "Give a folder, models:/NAME/VERSION, models:/NAME@alias or runs:/ID/model.",
        )
    return folder
