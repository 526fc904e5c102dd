"""Test images that were used to make a model or one of its engines."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trialrun.errors import PromotionRefusedError
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
    hashes = {hashlib.sha256(data).hexdigest() for data in calibration}
    return (
        *count_overlaps_with(scan, model, read_images_of_origin(client, origin)),
        Overlap("calibrate int8", sum(file.sha256 in hashes for file in scan.files)),
    )


def check_overlaps(overlaps: Iterable[Overlap], *, is_allowed: bool) -> list[str]:
    """Return a note for each overlap, if they are allowed.

    Raises:
        PromotionRefusedError: There is an overlap, or no record of the data.
    """
    found = [
        f"test images that {overlap.use}: "
        + ("no record of its data" if overlap.num_images is None else str(overlap.num_images))
        for overlap in overlaps
        if overlap.num_images != 0
    ]
    if found and not is_allowed:
        raise PromotionRefusedError(
            f"no engine is certified: {'; '.join(found)}",
            "Give other images with --test, or set --allow-overlap.",
        )
    return found
