"""The table of a segment while it is made: keys, records and reasons, without the pixels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.image_cache.checked_json import write_checked_json
from trialrun.image_cache.decode_results import DecodedImage, ResultAccumulator
from trialrun.image_cache.segments.files import (
    DESCRIPTION,
    KEYS,
    RECORD_TYPE,
    RECORDS,
    Segment,
    checksum_array,
)
from trialrun.image_cache.segments.keys import KEY_TYPE, Keys


@dataclass(slots=True)
class SegmentTable:
    """Keys and records of a segment; `num_filled` slots are complete.

    `reasons` and `transient` are those of undecodable images by slot. Images that failed for a
    transient reason have no key.
    """

    keys: Keys
    records: NDArray[Any]
    reasons: dict[int, str] = field(default_factory=dict)
    transient: dict[int, str] = field(default_factory=dict)
    num_filled: int = 0

    @classmethod
    def allocate(cls, num_images: int) -> "SegmentTable":
        """Return an empty table with a slot for each image."""
        return cls(np.zeros(num_images, KEY_TYPE), np.zeros(num_images, RECORD_TYPE))

    def add_decoded(
        self,
        keys: Keys,
        chunks: Iterable[Sequence[DecodedImage]],
        progress: Callable[[int], None],
    ) -> None:
        """Fill the first slots with the results of decoding; `keys` are those of the images."""
        accumulator = ResultAccumulator()
        for chunk in chunks:
            accumulator.extend(chunk)
            for slot, image in enumerate(chunk, self.num_filled):
                self._add_image(slot, keys[slot], image)
            self.num_filled += len(chunk)
            progress(len(chunk))
        self.records["hash"][: self.num_filled] = accumulator.compute_hashes()
        self.records["aspect"][: self.num_filled] = accumulator.aspects

    def _add_image(self, slot: int, key: bytes, image: DecodedImage) -> None:
        self.records["checksum"][slot] = image.checksum
        if image.is_transient:
            self.transient[slot] = image.reason
            return
        self.keys[slot] = key
        if image.reason:
            self.reasons[slot] = image.reason

    def add_copied(self, segment: Segment) -> None:
        """Fill the next slots with the entries of another segment, which is intact."""
        start, end = self.num_filled, self.num_filled + len(segment)
        self.keys[start:end], self.records[start:end] = segment.keys, segment.records
        self.reasons |= {start + slot: reason for slot, reason in segment.reasons.items()}
        self.num_filled = end

    def to_results(self) -> Segment:
        """Return a segment in memory whose images have no pixels."""
        pixels = np.zeros((len(self.keys), 0, 0, 3), np.uint8)
        return Segment(Path(), pixels, self.keys, self.records, self.reasons)

    def write(self, folder: Path, size: int, source: str) -> None:
        """Write all files but the pixels, whose stored size is `size`."""
        np.save(folder / KEYS, self.keys)
        np.save(folder / RECORDS, self.records)
        checksums = {KEYS: checksum_array(self.keys), RECORDS: checksum_array(self.records)}
        write_checked_json(
            folder / DESCRIPTION,
            {
                "size": size,
                "source": source,
                "num_images": len(self.keys),
                "reasons": self.reasons,
                "checksums": checksums,
            },
        )
