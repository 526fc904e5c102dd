"""Notes on pixels that a network does not see: cut off by the crop, or lost in rounding."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trialrun.image_cache import DecodedImages
from trialrun.images.decoding.fitting import CROP
from trialrun.images.decoding.gray_values import ValueRange
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.value_range import describe_narrow_range, sample_gray_values

_MAX_LOSS = 0.25


def find_pixel_notes(
    scan: DatasetScan,
    decoded: DecodedImages,
    *,
    fit: str = CROP,
    crop_fraction: float = 1.0,
    value_range: ValueRange | None = None,
) -> Iterator[str]:
    """Yield a note on the crop if the median image loses over a quarter, and one on gray values."""
    usable = decoded.aspects[decoded.usable_rows()]
    if fit == CROP and len(usable) and (loss := _compute_loss(usable)) > _MAX_LOSS:
        total = 1 - (1 - loss) * crop_fraction**2
        yield (
            f"fit=crop cuts off {total:.0%} of the median image: all outside the central square. "
            "fit=squash and fit=pad keep the whole image."
        )
    if (note := describe_narrow_range(sample_gray_values(scan), value_range)) is not None:
        yield note


def _compute_loss(aspects: NDArray[np.float32]) -> float:
    """Return the share of the median image's area outside its central square."""
    return float(np.median(1 - np.minimum(aspects, 1 / aspects)))
