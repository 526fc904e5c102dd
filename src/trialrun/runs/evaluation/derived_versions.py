"""Versions that are made from a registered model: with an engine, or with a threshold."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.files import scratch_directory
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.zoo.names import MODEL_CARD
from trialrun.registry import (
    find_or_create_model,
    register_version,
    upload_model,
)
from trialrun.registry.gates import Overlap
from trialrun.registry.large_manifest import LARGE_MANIFEST, extend_large_manifest
from trialrun.registry.versions import (
    CALIBRATED_BY,
    MANIFEST,
    VALIDATED_ON,
    ModelOrigin,
    find_version_of_uri,
    read_artifact_bytes,
    read_artifact_text,
)
from trialrun.report.model_card import ModelCard, format_card
from trialrun.runs.evaluation.overlaps import read_search_hashes
from trialrun.serving.package import add_serving_files
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True)
class DerivedVersion:
    """A new version of the registered model `name`, and the address of its files."""

    name: str
    number: str
    model_uri: str


def choose_name(client: "MlflowClient", model: str, register: str | None) -> str:
    """Return the registered model that gets the version: `register`, or that of `model`.

    Raises:
        InvalidParameterError: Neither names one.
    """
    if register is not None:
        return register
    version = find_version_of_uri(client, model)
    if version is None:
        raise InvalidParameterError(
            f"{model} is no version of a registered model", "Name one with --register NAME."
        )
    return version.name


def register_derived(
    run: TrackedRun,
    description: ModelDescription,
    weights: bytes,
    engine_files: Mapping[str, bytes],
    *,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    card: ModelCard,
) -> DerivedVersion:
    """Log a model directory and register it as a version of `name`; `card` describes it.

    Raises:
        TrackingError: The store or the registry fails.
        StorageError: The disk of the artifact store is full or not writable.
    """
    logged = find_or_create_model(
        run.client, experiment_id=run.experiment_id, run_id=run.run_id, params=params, tags=tags
    )
    text = format_card(card)
    with scratch_directory() as folder:
        write_model_directory(folder, description, weights, engine_files)
        add_serving_files(folder, description, model_id=logged.model_id, run_id=run.run_id)
        (folder / MODEL_CARD).write_text(text, encoding="utf-8")
        upload_model(run.client, logged, folder, run_id=run.run_id, step=0)
    number = register_version(
        run.client, logged, name=name, run_id=run.run_id, tags=tags, card=text
    )
    run.set_tags(tags)
    return DerivedVersion(name, number, logged.uri)


def record_used_images(run: TrackedRun, origin: ModelOrigin, calibrated_by: Iterable[str]) -> None:
    """Write the manifest by which a promotion of the derived version finds overlaps.

    It is that of the training run, with the validation images of the other trials of its search and
    the images with the hashes `calibrated_by`.

    Raises:
        TrackingError: The store fails.
    """
    if origin.run_id is None:
        return
    rows = [
        *((VALIDATED_ON, sha) for sha in sorted(read_search_hashes(run.client, origin.run_id))),
        *((CALIBRATED_BY, sha) for sha in calibrated_by),
    ]
    text = read_artifact_text(run.client, origin.run_id, MANIFEST)
    if text is not None:
        lines = (json.dumps({"set": name, "sha256": sha256}) + "\n" for name, sha256 in rows)
        run.log_text(MANIFEST, text + "".join(lines))
    elif (data := read_artifact_bytes(run.client, origin.run_id, LARGE_MANIFEST)) is not None:
        with scratch_directory() as scratch:
            extend_large_manifest(data, rows, scratch / LARGE_MANIFEST)
            run.log_artifact(scratch / LARGE_MANIFEST)


def check_overlaps(overlaps: Iterable[Overlap], *, refusal: str, is_allowed: bool) -> list[str]:
    """Return a note for each overlap, if they are allowed.

    Raises:
        PromotionRefusedError: There is an overlap, or no record of the data; begins with `refusal`.
    """
    found = [
        f"test images that {overlap.use}: "
        + ("no record of its data" if overlap.num_images is None else str(overlap.num_images))
        for overlap in overlaps
        if overlap.num_images != 0
    ]
    if found and not is_allowed:
        raise PromotionRefusedError(
            f"{refusal}: {'; '.join(found)}", "Give other test images, or set --allow-overlap."
        )
    return found
