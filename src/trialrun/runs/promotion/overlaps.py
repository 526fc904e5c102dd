"""Test images that training has used, by the manifests of training runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.gates import Overlap
from trialrun.registry.versions import (
    TRAINED_ON,
    VALIDATED_ON,
    ModelVersion,
    read_file_hashes,
    read_manifest,
    run_exists,
)
from trialrun.tracking import PARENT_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE_SIZE = 1000


def find_overlaps(
    client: "MlflowClient", scan: DatasetScan, versions: Iterable[ModelVersion]
) -> tuple[Overlap, ...]:
    """Count the test images that trained each version, and those that chose its epoch or trial.

    Raises:
        TrackingError: The store fails.
    """
    test_hashes = frozenset(file.sha256 for file in scan.files) - {""}
    return tuple(
        overlap
        for version in versions
        for overlap in _find_overlaps_of(client, test_hashes, version)
    )


def _find_overlaps_of(
    client: "MlflowClient", test_hashes: frozenset[str], version: ModelVersion
) -> list[Overlap]:
    name = f"version {version.number}"
    hashes = read_file_hashes(client, version.origin.run_id)
    if hashes is None or version.origin.run_id is None:
        return [Overlap(f"{name} was trained on", None)]
    selection = hashes.get(VALIDATED_ON, frozenset()) | _read_search_hashes(
        client, version.origin.run_id
    )
    return [
        Overlap(f"{name} was trained on", len(test_hashes & hashes[TRAINED_ON])),
        Overlap(f"chose the epoch or trial of {name}", len(test_hashes & selection)),
    ]


def _read_search_hashes(client: "MlflowClient", run_id: str) -> frozenset[str]:
    """Return the hashes of the validation images of all trials of the run's search.

    Trials that share the digest of their validation set share its images: one manifest per digest
    is read.
    """
    hashes: frozenset[str] = frozenset()
    for trial_id in _find_trials_by_digest(client, run_id).values():
        trial_hashes = read_file_hashes(client, trial_id) or {}
        hashes |= trial_hashes.get(VALIDATED_ON, frozenset())
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


def find_grouped_versions(
    client: "MlflowClient", versions: Iterable[ModelVersion]
) -> tuple[str, ...]:
    """Return the numbers of the versions whose training images had groups.

    Raises:
        TrackingError: The store fails.
    """
    return tuple(version.number for version in versions if _has_groups(client, version))


def _has_groups(client: "MlflowClient", version: ModelVersion) -> bool:
    run_id = version.origin.run_id
    rows = read_manifest(client, run_id) if run_id and run_exists(client, run_id) else None
    return any("group" in row for row in rows or ())
