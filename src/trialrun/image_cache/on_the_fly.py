"""Decoded images where there is no room to keep them: decoded again for every batch, by threads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import InvalidDatasetError
from trialrun.image_cache.decode_results import Verdicts, decode_all, judge
from trialrun.image_cache.perceptual_hash import Likenesses
from trialrun.images.dataset import printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import Survey, no_progress


@dataclass(slots=True)
class LiveImages:
    """As a `Pack` to those who read it; `num_decoded` grows with every batch."""

    surveyed: Survey
    preprocessing: Preprocessing
    reasons: tuple[str, ...]
    likenesses: Likenesses
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
        made = decode_all(self.surveyed, self.preprocessing, rows.tolist(), threads=self.threads)
        images = []
        for row, decoded in zip(rows.tolist(), made, strict=True):
            if decoded.pixels is None:
                name = printable(self.surveyed.images.items[row].name)
                raise InvalidDatasetError(
                    f"{name} could be read when the run began: {decoded.reason}",
                    "Leave the images alone while a run reads them, or give the cache of decoded "
                    "images more room (TRIALRUN_CACHE_GB).",
                )
            images.append(decoded.pixels)
        self.num_decoded += len(images)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def looked_at(
    surveyed: Survey,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None] = no_progress,
) -> LiveImages:
    """The images of a set, each decoded once for its verdict and then forgotten."""
    verdicts = judge(surveyed, preprocessing, threads=threads, progress=progress)
    return live_images(surveyed, preprocessing, verdicts, threads=threads)


def live_images(
    surveyed: Survey,
    preprocessing: Preprocessing,
    verdicts: Verdicts,
    *,
    threads: int,
    num_decoded: int | None = None,
) -> LiveImages:
    """The images that `verdicts` were found of; all of them decoded for it, unless it is said."""
    return LiveImages(
        surveyed,
        preprocessing,
        verdicts.reasons,
        verdicts.likenesses,
        threads,
        len(surveyed.sightings) if num_decoded is None else num_decoded,
    )
