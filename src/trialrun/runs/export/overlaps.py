"""Test images that were used to make a model or one of its engines."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trialrun.errors import PromotionRefusedError
from trialrun.files import scratch_directory
from trialrun.images.scanning.scan import DatasetScan
from trialrun.registry.gates import Overlap
from trialrun.registry.large_manifest import LARGE_MANIFEST, extend_large_manifest
from trialrun.registry.versions import (
    CALIBRATED_BY,
    MANIFEST,
    VALIDATED_ON,
    ModelOrigin,
    read_artifact_bytes,
    read_artifact_text,
)
from trialrun.runs.evaluation.overlaps import (
    count_overlaps_with,
    read_images_of_origin,
    read_search_hashes,
)
from trialrun.tracking import TrackedRun

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
    hashes = set(_hash_all(calibration))
    return (
        *count_overlaps_with(scan, model, read_images_of_origin(client, origin)),
        Overlap("calibrate int8", sum(file.sha256 in hashes for file in scan.files)),
    )


def record_used_images(run: TrackedRun, origin: ModelOrigin, calibration: Sequence[bytes]) -> None:
    """Write the manifest by which a promotion of the certified version finds overlaps.

    It is that of the training run, with the validation images of the other trials of its search and
    the images that calibrate the engine.

    Raises:
        TrackingError: The store fails.
    """
    if origin.run_id is None:
        return
    rows = [
        *(
            (VALIDATED_ON, sha256)
            for sha256 in sorted(read_search_hashes(run.client, origin.run_id))
        ),
        *((CALIBRATED_BY, sha256) for sha256 in _hash_all(calibration)),
    ]
    text = read_artifact_text(run.client, origin.run_id, MANIFEST)
    if text is not None:
        lines = (json.dumps({"set": name, "sha256": sha256}) + "\n" for name, sha256 in rows)
        run.log_text(MANIFEST, text + "".join(lines))
    elif (data := read_artifact_bytes(run.client, origin.run_id, LARGE_MANIFEST)) is not None:
        with scratch_directory() as scratch:
            extend_large_manifest(data, rows, scratch / LARGE_MANIFEST)
            run.log_artifact(scratch / LARGE_MANIFEST)


def _hash_all(contents: Iterable[bytes]) -> Iterator[str]:
    return (hashlib.sha256(data).hexdigest() for data in contents)


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
