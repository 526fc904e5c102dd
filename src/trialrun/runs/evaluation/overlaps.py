"""Test images that training has used, by the manifests of training runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.gates import Overlap
from trialrun.registry.versions import (
    CALIBRATED_BY,
    TRAINED_ON,
    VALIDATED_ON,
    ModelOrigin,
    ModelVersion,
    collect_hashes,
    read_manifest,
    run_exists,
)
from trialrun.tracking import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingImages:
    """The SHA-256 values of the images that trained, selected and calibrated a model."""

    trained_on: frozenset[str]
    selected_by: frozenset[str]
    calibrated_by: frozenset[str]
    has_groups: bool


def read_training_images(
    client: "MlflowClient", versions: Iterable[ModelVersion]
) -> dict[ModelVersion, TrainingImages | None]:
    """Read the manifest of each version's training run; None if it has none.

    Raises:
        TrackingError: The store fails.
    """
    return {version: read_images_of_origin(client, version.origin) for version in versions}


def read_images_of_origin(client: "MlflowClient", origin: ModelOrigin) -> TrainingImages | None:
    """Read the manifest of a model's training run; None if it has none.

    Raises:
        TrackingError: The store fails.
    """
    run_id = origin.run_id
    rows = read_manifest(client, run_id) if run_id and run_exists(client, run_id) else None
    if rows is None or run_id is None:
        return None
    hashes = collect_hashes(rows)
    return TrainingImages(
        trained_on=hashes[TRAINED_ON],
        selected_by=hashes[VALIDATED_ON] | read_search_hashes(client, run_id),
        calibrated_by=hashes[CALIBRATED_BY],
        has_groups=any("group" in row for row in rows),
    )


def count_overlaps(
    scan: DatasetScan, training: Mapping[ModelVersion, TrainingImages | None]
) -> tuple[Overlap, ...]:
    """Count the test images that trained each version, and those that chose its epoch or trial."""
    return tuple(
        overlap
        for version, images in training.items()
        for overlap in count_overlaps_with(scan, f"version {version.number}", images)
    )


def count_overlaps_with(
    scan: DatasetScan, name: str, images: TrainingImages | None
) -> tuple[Overlap, ...]:
    """Count the test images that trained the model `name`, and those that selected it."""
    test_hashes = frozenset(file.sha256 for file in scan.files) - {""}
    if images is None:
        return (Overlap(f"{name} was trained on", None),)
    return (
        Overlap(f"{name} was trained on", len(test_hashes & images.trained_on)),
        Overlap(f"chose the epoch or trial of {name}", len(test_hashes & images.selected_by)),
        Overlap(f"calibrated {name}", len(test_hashes & images.calibrated_by)),
    )


def read_search_hashes(client: "MlflowClient", run_id: str) -> frozenset[str]:
    """Return the hashes of the validation images of all other trials of the run's search.

    Trials that share the digest of their validation set share its images: one manifest per digest
    is read.

    Raises:
        TrackingError: The store fails.
    """
    hashes: frozenset[str] = frozenset()
    for trial_id in _find_trials_by_digest(client, run_id).values():
        hashes |= collect_hashes(read_manifest(client, trial_id) or [])[VALIDATED_ON]
    return hashes


def _find_trials_by_digest(client: "MlflowClient", run_id: str) -> dict[str, str]:
    """Return the id of one trial per validation set that differs from that of `run_id`."""
    with translate_tracking_errors(f"the search of run {run_id} cannot be read"):
        run = client.get_run(run_id)
        if (parent := run.data.tags.get(PARENT_TAG)) is None:
            return {}
        trials: dict[str, str] = {}
        token = None
        while True:
            page = client.search_runs(
                [run.info.experiment_id],
                f"tags.`{PARENT_TAG}` = '{parent}'",
                max_results=_PAGE_SIZE,
                page_token=token,
            )
            for trial in page:
                trials.setdefault(_read_valid_digest(trial), trial.info.run_id)
            if not (token := page.token):
                break
    trials.pop(_read_valid_digest(run), None)
    trials.pop("", None)
    return trials


def _read_valid_digest(run: "Run") -> str:
    """Return the digest of the run's validation set; empty if it logged none."""
    datasets = [item.dataset for item in run.inputs.dataset_inputs] if run.inputs else []
    return next((data.digest for data in datasets if data.name == VALIDATED_ON), "")
