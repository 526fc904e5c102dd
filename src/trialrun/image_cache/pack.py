"""Packs: the decoded images of one dataset, in the segments that hold them.

Tensor letters: N images, S the stored size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.image_cache.segments.files import RECORD_TYPE, Segment
from trialrun.image_cache.segments.keys import SetKeys
from trialrun.image_cache.segments.search import Placement
from trialrun.images.scanning.scan import DatasetScan


class DecodedImages(Protocol):
    """The decoded images of a dataset, one row per image: a `Pack` or `OnTheFlyImages`."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each image cannot be used; empty for the others."""
        ...

    @property
    def perceptual_hashes(self) -> PerceptualHashes:
        """The perceptual hash of each image."""
        ...

    @property
    def aspects(self) -> NDArray[np.float32]:
        """The aspect ratio of each image."""
        ...

    @property
    def num_decoded(self) -> int:
        """The number of images that this process decoded."""
        ...

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        ...

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the images at `rows` in that order, (N, 3, S, S) uint8."""
        ...


@dataclass(slots=True)
class Pack:
    """The decoded images of one dataset, one row per image, mapped into memory.

    `reasons[row]` is empty where the image is usable. `aspects` are widths by heights of the images
    before they were fitted into the square. `num_decoded` counts the images that this process
    decoded: 0 if all were in the cache. `segment_of_row` and `slot_of_row` are -1 for an image
    without pixels.
    """

    segments: tuple[Segment, ...]
    segment_of_row: NDArray[np.int32]
    slot_of_row: NDArray[np.int64]
    size: int
    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    aspects: NDArray[np.float32]
    num_decoded: int = 0

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the images at `rows` in that order, (N, 3, S, S) uint8, channels last.

        Raises:
            IndexError: A row has no pixels.
        """
        slots = self.slot_of_row[rows]
        if len(slots) and slots.min() < 0:
            raise IndexError(f"row {rows[slots.argmin()]} has no pixels")
        if len(self.segments) == 1:
            images = self.segments[0].pixels[slots]
        else:
            images = self._gather(self.segment_of_row[rows].tolist(), slots.tolist())
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _gather(self, segments: list[int], slots: list[int]) -> NDArray[np.uint8]:
        """Copy images from several segments: one copy of each, unlike with masks per segment."""
        images = np.empty((len(slots), self.size, self.size, 3), dtype=np.uint8)
        stored = [segment.pixels for segment in self.segments]
        for position, (segment, slot) in enumerate(zip(segments, slots, strict=True)):
            images[position] = stored[segment][slot]
        return images


def build_pack(
    scan: DatasetScan,
    keys: SetKeys,
    placement: Placement,
    size: int,
    transient: Mapping[int, str] | None = None,
) -> Pack:
    """Return the pack of a scanned dataset; `transient` are reasons of failures by key position."""
    index = keys.index_of_row
    is_known = index >= 0
    segment_of_row = np.full(len(index), -1, dtype=np.int32)
    segment_of_row[is_known] = placement.segment_of_key[index[is_known]]
    slot_of_row = np.full(len(index), -1, dtype=np.int64)
    slot_of_row[is_known] = placement.slot_of_key[index[is_known]]
    records = np.zeros(len(scan.files), dtype=RECORD_TYPE)
    records["aspect"] = 1.0
    reasons = [file.reason for file in scan.files]
    for number, segment in enumerate(placement.segments):
        rows = np.flatnonzero(segment_of_row == number)
        records[rows] = segment.records[slot_of_row[rows]]
        _copy_reasons(segment, rows, slot_of_row, reasons)
    for row in np.flatnonzero(is_known & (slot_of_row < 0)).tolist():
        reasons[row] = (transient or {})[int(index[row])]
    return Pack(
        placement.segments,
        segment_of_row,
        slot_of_row,
        size,
        tuple(reasons),
        np.ascontiguousarray(records["hash"]),
        np.ascontiguousarray(records["aspect"]),
    )


def _copy_reasons(
    segment: Segment, rows: NDArray[np.int64], slot_of_row: NDArray[np.int64], reasons: list[str]
) -> None:
    """Add the reasons of the images at `rows` that could not be decoded to `reasons`."""
    failed = np.isin(slot_of_row[rows], list(segment.reasons))
    for row in rows[failed].tolist():
        reasons[row] = segment.reasons[int(slot_of_row[row])]
