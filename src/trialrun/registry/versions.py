"""Versions of registered models: lookup, training run, training data and model folder."""

import json
from collections.abc import Callable, Iterable, Mapping
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
from trialrun.registry.large_manifest import LARGE_MANIFEST, read_large_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

MANIFEST = "manifest.jsonl"  # artifact of a training run: one JSON object per image file
TRAINED_ON = "train"  # name of the training set in the manifest
VALIDATED_ON = "valid"  # and of the validation set, which chose the epoch
CALIBRATED_BY = "calibration"  # of an int8 engine

_MODELS = "models:/"
_RUNS = "runs:/"
MODEL_SCHEMES = (_MODELS, _RUNS)


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """The run and the LoggedModel that a model comes from; None if MLflow does not record them."""

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
        """The URI that MLflow loads the version from."""
        return f"{_MODELS}{self.name}/{self.number}"

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


def check_version(number: str, *, setting: str = "version") -> None:
    """Check that `number`, the value of `setting`, is a number or @alias.

    Raises:
        InvalidParameterError: `number` is neither.
    """
    if not number.startswith("@") and not number.isdecimal():
        raise InvalidParameterError(
            f"{setting}={number} is neither a number nor @alias", "Use for example 3 or @champion."
        )


def find_version(client: "MlflowClient", name: str, number: str) -> ModelVersion:
    """Return the version with this number or `@alias`.

    Raises:
        InvalidParameterError: `number` is neither a number nor @alias.
        TrackingError: The model, version or alias does not exist.
    """
    check_version(number)
    with translate_tracking_errors(f"{name} version {number} cannot be found"):
        if number.startswith("@"):
            version = client.get_model_version_by_alias(name, number[1:])
        else:
            version = client.get_model_version(name, number)
    if version.status != "READY":
        raise TrackingError(
            f"{name} version {number} is not ready ({version.status})", "Register it again."
        )
    model_id = version.model_id or _parse_model_id(version.source or "")
    origin = _complete_origin(client, ModelOrigin(version.run_id, model_id))
    return ModelVersion(name, str(version.version), origin)


def version_exists(client: "MlflowClient", name: str, number: str) -> bool:
    """Whether version `number` exists.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"{name} version {number} cannot be found"):
        return _is_found(lambda: client.get_model_version(name, number))


def _is_found(fetch: Callable[[], object]) -> bool:
    """Whether `fetch` finds what it asks MLflow for."""
    from mlflow.exceptions import MlflowException

    try:
        fetch()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def find_newest_existing(client: "MlflowClient", name: str, numbers: Iterable[str]) -> str | None:
    """Return the first of `numbers` that exists; `numbers` are newest first.

    Raises:
        TrackingError: The store fails.
    """
    return next((number for number in numbers if version_exists(client, name, number)), None)


def find_origin(client: "MlflowClient", model: str) -> ModelOrigin:
    """Return the run and LoggedModel of a model URI; a local folder has neither.

    Raises:
        TrackingError: The version, alias or run does not exist.
    """
    if model.startswith(_RUNS):
        run_id = model.removeprefix(_RUNS).partition("/")[0]
        return ModelOrigin(run_id, _find_model_of_run(client, run_id))
    if not model.startswith(_MODELS):
        return ModelOrigin(None, None)
    version = find_version_of_uri(client, model)
    if version is None:
        return _complete_origin(client, ModelOrigin(None, model.removeprefix(_MODELS)))
    return version.origin


def find_version_of_uri(client: "MlflowClient", model: str) -> ModelVersion | None:
    """Return the registered version that `models:/NAME/3` or `models:/NAME@alias` names, else None.

    Raises:
        TrackingError: The version or alias does not exist.
    """
    path = model.removeprefix(_MODELS)
    if path == model:
        return None
    name, _, number = path.rpartition("@" if "@" in path else "/")
    if not name:
        return None  # models:/ID is a LoggedModel
    return find_version(client, name, f"@{number}" if "@" in path else number)


def _parse_model_id(source: str) -> str | None:
    """Return ID if `source` is `models:/ID`."""
    path = source.removeprefix(_MODELS)
    return path if path != source and "/" not in path and "@" not in path else None


def _complete_origin(client: "MlflowClient", origin: ModelOrigin) -> ModelOrigin:
    """Return `origin` with the run of its LoggedModel if the version does not record a run."""
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


def collect_hashes(rows: Iterable[Mapping[str, object]]) -> dict[str, frozenset[str]]:
    """Return the SHA-256 values in the rows of a manifest, by set; a set may have none."""
    hashes: dict[str, set[str]] = {TRAINED_ON: set(), VALIDATED_ON: set(), CALIBRATED_BY: set()}
    for row in rows:
        hashes.setdefault(str(row["set"]), set()).add(str(row["sha256"]))
    return {name: frozenset(values - {""}) for name, values in hashes.items()}


def run_exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store has the run: `mlflow gc` removes deleted runs.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        return _is_found(lambda: client.get_run(run_id))


def read_manifest(client: "MlflowClient", run_id: str) -> list[dict[str, object]] | None:
    """Return the rows of a training run's manifest; None if it has no manifest.

    Those of a run with many images have no names.
    """
    text = read_artifact_text(client, run_id, MANIFEST)
    if text is not None:
        return [json.loads(line) for line in text.splitlines()]
    data = read_artifact_bytes(client, run_id, LARGE_MANIFEST)
    return None if data is None else list(read_large_manifest(data))


def read_artifact_text(client: "MlflowClient", run_id: str, name: str) -> str | None:
    """Return the text of the artifact `name`; None if the run has no such artifact.

    Raises:
        TrackingError: The run does not exist, or the store fails.
    """
    data = read_artifact_bytes(client, run_id, name)
    return None if data is None else data.decode("utf-8")


def read_artifact_bytes(client: "MlflowClient", run_id: str, name: str) -> bytes | None:
    """Return the bytes of the artifact `name`; None if the run has no such artifact.

    Raises:
        TrackingError: The run does not exist, or the store fails.
    """
    with translate_tracking_errors(f"{name} of run {run_id} cannot be read"):
        if name not in {entry.path for entry in client.list_artifacts(run_id)}:
            return None
        with scratch_directory() as scratch:
            return Path(client.download_artifacts(run_id, name, str(scratch))).read_bytes()


def link_models(client: "MlflowClient", run_id: str, model_ids: Iterable[str | None]) -> None:
    """Log the models that a run used as its inputs; None entries are skipped."""
    from mlflow.entities import LoggedModelInput

    models = [LoggedModelInput(model_id) for model_id in dict.fromkeys(model_ids) if model_id]
    if not models:
        return
    with translate_tracking_errors("the models cannot be linked"):
        client.log_inputs(run_id, models=models)


def find_model_folder(model: str) -> Path:
    """Return the folder of `models:/NAME/3`, `models:/NAME@alias`, `runs:/ID/model` or a path.

    A remote model is downloaded to a folder that is deleted when the process ends.

    Raises:
        InvalidModelDirectoryError: The folder does not exist.
        TrackingError: The model, version, alias or run does not exist or cannot be downloaded.
    """
    if model.startswith(URI_SCHEMES):
        connect_client()  # reports an unreachable server quickly
        return download_artifact(model)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InvalidModelDirectoryError(
            f"model directory {model} does not exist (searched in {Path.cwd()})",
            "Give a folder, models:/NAME/VERSION, models:/NAME@alias or runs:/ID/model.",
        )
    return folder
