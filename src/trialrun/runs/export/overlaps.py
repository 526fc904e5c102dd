"""Test images that were used to make a model or one of its engines."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trialrun.images.scanning.scan import DatasetScan
from trialrun.registry.gates import Overlap
from trialrun.registry.versions import ModelOrigin
from trialrun.runs.evaluation.overlaps import count_overlaps_with, read_images_of_origin

if TYPE_CHECKING:
    from mlflow import MlflowClient


def find_overlaps(
    client: "MlflowClient",
    scan: DatasetScan,
    model: str,
    origin: ModelOrigin,
    calibration: Sequence[bytes],
) -> tuple[Overlap, ...]:
    """Count the test images that trained or selected the model, and those that calibrate int8.

    Raises:
        TrackingError: The store fails.
    """
    hashes = set(hash_all(calibration))
    return (
        *count_overlaps_with(scan, model, read_images_of_origin(client, origin)),
        Overlap("calibrate int8", sum(file.sha256 in hashes for file in scan.files)),
    )


def hash_all(contents: Iterable[bytes]) -> Iterator[str]:
    """Yield the SHA-256 of each file."""
    return (hashlib.sha256(data).hexdigest() for data in contents)
