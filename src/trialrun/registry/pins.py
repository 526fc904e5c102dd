"""Pins of a model's origin: its weights must have the SHA-256 that was recorded or given."""

from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.errors import InvalidModelDirectoryError
from trialrun.mlflow_client import connect_client, translate_tracking_errors
from trialrun.models.open import find_weights_sha256
from trialrun.registry.versions import MODEL_SCHEMES, find_model_folder, find_version_of_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHA256_TAG = "weights_sha256"  # set on a version when a training run registers it


def find_pinned_folder(model: str, sha256: str | None = None) -> Path:
    """Return the folder of a model, after comparing its weights with their pins.

    The pins are `sha256`, if given, and the tag of a registered version, if it has one. The digest
    is the one in the manifest, with which the files are compared when they are read.

    Raises:
        InvalidModelDirectoryError: The weights have another SHA-256, or the folder does not exist.
        TrackingError: The model, version, alias or run does not exist or cannot be downloaded.
    """
    folder = find_model_folder(model)
    if sha256 is not None:
        _compare(folder, model, sha256, f"sha256={sha256}")
    if model.startswith(MODEL_SCHEMES) and (tag := _find_tag(connect_client(), model)):
        _compare(folder, model, tag, f"the version's tag {SHA256_TAG}={tag}")
    return folder


def _find_tag(client: "MlflowClient", model: str) -> str | None:
    version = find_version_of_uri(client, model)
    if version is None:
        return None
    with translate_tracking_errors(f"{version} cannot be read"):
        tags = client.get_model_version(version.name, version.number).tags
    value = tags.get(SHA256_TAG)
    return None if value is None else str(value)


def _compare(folder: Path, model: str, expected: str, pin: str) -> None:
    found = find_weights_sha256(folder)
    if found is None:
        raise InvalidModelDirectoryError(
            f"{model} has no weights file that can be compared with {pin}",
            "Give a model directory of trialrun or Azure ML designer.",
        )
    if found != expected.lower():
        raise InvalidModelDirectoryError(
            f"{model} has weights with SHA-256 {found}, not {pin}",
            "Find out who changed the model; then take another copy of it, or correct the pin.",
        )
