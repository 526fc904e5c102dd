"""Decoded images where there is no room to keep them: decoded again for every batch, by threads."""

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
    """As a `Pack` to those who read it; `num_decoded` grows with every batch."""

    scan: DatasetScan
    preprocessing: Preprocessing
    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    threads: int
    num_decoded: int = 0

    def usable(self) -> list[int]:
        """The rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) uint8, channels last in memory, the images at `rows` in that order.

        Raises:
            InvalidDatasetError: An image is gone or was changed since it was looked at.
        """
        made = decode_rows(self.scan, self.preprocessing, rows.tolist(), threads=self.threads)
        images = []
        for row, decoded in zip(rows.tolist(), made, strict=True):
            if decoded.pixels is None:
                name = make_printable(self.scan.images.items[row].name)
                raise InvalidDatasetError(
                    f"{name} could be read when the run began: {decoded.reason}",
                    "Leave the images alone while a run reads them, or give the cache of decoded "
                    "images more room (TRIALRUN_CACHE_GB).",
                )
            images.append(decoded.pixels)
        self.num_decoded += len(images)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def decode_once(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None] = ignore_progress,
) -> OnTheFlyImages:
    """The images of a set, each decoded once for its verdict and then forgotten."""
    verdicts = decode_and_discard(scan, preprocessing, threads=threads, progress=progress)
    return decode_on_the_fly(scan, preprocessing, verdicts, threads=threads)


def decode_on_the_fly(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    verdicts: DecodeResults,
    *,
    threads: int,
    num_decoded: int | None = None,
) -> OnTheFlyImages:
    """The images that `verdicts` were found of; all of them decoded for it, unless it is said."""
    return OnTheFlyImages(
        scan,
        preprocessing,
        verdicts.reasons,
        verdicts.perceptual_hashes,
        threads,
        len(scan.files) if num_decoded is None else num_decoded,
    )
