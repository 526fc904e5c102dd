"""Decoding without a pack, for lack of room in the cache: threads decode each batch again."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import InvalidDatasetError
from trialrun.image_cache.decode_results import DecodeResults, decode_and_discard, decode_rows
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images.dataset import make_printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress


@dataclass(slots=True)
class OnTheFlyImages:
    """Decoded images with the interface of a `Pack`; `num_decoded` grows with every batch."""

    scan: DatasetScan
    preprocessing: Preprocessing
    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    aspects: NDArray[np.float32]
    threads: int
    num_decoded: int

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Decode the images at `rows` in that order: (N, 3, S, S) uint8, channels last.

        Raises:
            InvalidDatasetError: An image was deleted or changed since it was scanned.
        """
        decoded = decode_rows(self.scan, self.preprocessing, rows.tolist(), threads=self.threads)
        arrays = []
        for row, image in zip(rows.tolist(), decoded, strict=True):
            if image.pixels is None:
                name = make_printable(self.scan.images.items[row].name)
                raise InvalidDatasetError(
                    f"{name} changed during the run: {image.reason}",
                    "Do not change images while a run reads them, or give the cache of decoded "
                    "images more room (TRIALRUN_CACHE_GB).",
                )
            arrays.append(image.pixels)
        self.num_decoded += len(arrays)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def open_results(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    results: DecodeResults,
    *,
    threads: int,
    num_decoded: int,
) -> OnTheFlyImages:
    """Return the images of a set that was decoded before with these results."""
    return OnTheFlyImages(
        scan,
        preprocessing,
        results.reasons,
        results.perceptual_hashes,
        results.aspects,
        threads,
        num_decoded,
    )


def decode_once(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None] = ignore_progress,
) -> OnTheFlyImages:
    """Decode each image once for its result, keep no pixels, and return the on-the-fly images."""
    results = decode_and_discard(scan, preprocessing, threads=threads, progress=progress)
    return open_results(scan, preprocessing, results, threads=threads, num_decoded=len(scan.files))
