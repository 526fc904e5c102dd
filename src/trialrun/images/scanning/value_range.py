"""The range of the values in files of more than 8 bits, measured on a sample of a dataset."""

import math
import statistics
from collections.abc import Sequence

from trialrun.images.decoding.decode import read_gray_values
from trialrun.images.decoding.file_io import read_item
from trialrun.images.decoding.gray_values import GrayValues, ValueRange
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.scan import DatasetScan

_MAX_FILES = 256  # to read the headers of; evenly spaced
_MAX_MEASURED = 64  # of more than 8 bits, which are decoded
_MIN_SHARE = 0.25  # below it, fewer than 64 of 256 gray levels are left


def sample_gray_values(scan: DatasetScan) -> list[GrayValues]:
    """Return the values of at most 64 files of more than 8 bits, from 256 files of the set."""
    usable = [row for row, file in enumerate(scan.files) if not file.reason]
    found: list[GrayValues] = []
    for row in usable[:: -(-len(usable) // _MAX_FILES) or 1]:
        try:
            content = read_item(scan.images, scan.images.items[row])
            values = read_gray_values(content.data)
        except UndecodableError:  # reported when the whole set is decoded
            continue
        if values is not None:
            found.append(values)
        if len(found) == _MAX_MEASURED:
            break
    return found


def measure_range(sample: Sequence[GrayValues]) -> ValueRange | None:
    """Return the smallest and the largest value of the sample; None if there are not two."""
    if not sample:
        return None
    low = math.floor(min(values.low for values in sample))
    high = math.ceil(max(values.high for values in sample))
    return (low, high) if low < high else None


def describe_narrow_range(
    sample: Sequence[GrayValues], value_range: ValueRange | None
) -> str | None:
    """Describe a loss of gray levels: the median file uses less than a quarter of the range."""
    measured = measure_range(sample)
    if measured is None:
        return None
    share = statistics.median(values.compute_share(value_range) for values in sample)
    if share >= _MIN_SHARE:
        return None
    low, high = measured
    return (
        f"the values of files of more than 8 bits use {share:.1%} of their range, and keep about "
        f"{max(round(256 * share), 1)} of 256 gray levels; they are from {low} to {high}. "
        f"value_range=auto or value_range={low}:{high} scales them."
    )
