"""Images that are not all stored, for lack of room in the cache: the others are decoded anew.

Threads decode them for each batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trialrun.errors import InvalidDatasetError
from trialrun.image_cache.decode_results import decode_rows
from trialrun.image_cache.pack import Pack, build_pack
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.image_cache.segments.files import Segment
from trialrun.image_cache.segments.keys import SetKeys, collect_keys
from trialrun.image_cache.segments.search import order_missing, place_keys
from trialrun.image_cache.segments.table import SegmentTable
from trialrun.image_cache.segments.writer import (
    SegmentContents,
    choose_copied,
    decode_results,
)
from trialrun.images.dataset import make_printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan, ignore_progress


@dataclass(slots=True)
class OnTheFlyImages:
    """Decoded images with the interface of a `Pack`; `num_decoded` grows with every batch.

    `known` holds the results of all images, and the pixels of those that are stored.
    """

    scan: DatasetScan
    preprocessing: Preprocessing
    known: Pack
    threads: int
    num_decoded: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each image cannot be used; empty for the others."""
        return self.known.reasons

    @property
    def perceptual_hashes(self) -> PerceptualHashes:
        """The perceptual hash of each image."""
        return self.known.perceptual_hashes

    @property
    def aspects(self) -> NDArray[np.float32]:
        """The aspect ratio of each image."""
        return self.known.aspects

    def usable_rows(self) -> list[int]:
        """Return the rows that hold an image."""
        return self.known.usable_rows()

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Read or decode the images at `rows` in that order: (N, 3, S, S) uint8, channels last.

        Raises:
            InvalidDatasetError: An image was deleted or changed since it was scanned.
        """
        is_stored = self.known.slot_of_row[rows] >= 0
        decoded = self._decode(rows[~is_stored].tolist())
        if not is_stored.any():
            images = np.stack(decoded)
        else:
            stored = self.known.pixels(rows[is_stored]).permute(0, 2, 3, 1).numpy()
            images = np.empty((len(rows), *stored.shape[1:]), np.uint8)
            images[is_stored] = stored
            if decoded:
                images[~is_stored] = decoded
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def _decode(self, rows: list[int]) -> list[NDArray[np.uint8]]:
        """Return the images at `rows`, (S, S, 3) each."""
        arrays = []
        decoded = decode_rows(self.scan, self.preprocessing, rows, threads=self.threads)
        for row, image in zip(rows, decoded, strict=True):
            if image.pixels is None:
                name = make_printable(self.scan.images.items[row].name)
                raise InvalidDatasetError(
                    f"{name} changed during the run: {image.reason}",
                    "Do not change images while a run reads them, or give the cache of decoded "
                    "images more room (TRIALRUN_CACHE_GB).",
                )
            arrays.append(image.pixels)
        self.num_decoded += len(arrays)
        return arrays


@dataclass(frozen=True, slots=True)
class NewResults:
    """Results of decoding images that had none; `contents` says which images they are of."""

    contents: SegmentContents
    table: SegmentTable


@dataclass(frozen=True, slots=True)
class KnownSegments:
    """What is known of a set: segments with pixels, and segments of results."""

    stored: tuple[Segment, ...] = ()
    results: tuple[Segment, ...] = ()


def open_unstored(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    keys: SetKeys,
    known: KnownSegments,
    *,
    threads: int,
    progress: Callable[[int], None] = ignore_progress,
) -> tuple[OnTheFlyImages, NewResults]:
    """Return the images of a set, and the results of those that had to be decoded for them."""
    earlier = [*known.stored, *known.results]
    missing = order_missing(keys, place_keys(keys.keys, earlier))
    progress(len(scan.files) - len(missing))
    copied = choose_copied(known.results) if len(missing) else []
    contents = SegmentContents(scan, keys.first_rows[missing], keys.keys[missing], copied)
    table = decode_results(contents, preprocessing, threads=threads, progress=progress)
    placement = place_keys(keys.keys, [*earlier, table.to_results()])
    transient = {int(missing[slot]): reason for slot, reason in table.transient.items()}
    pack = build_pack(scan, keys, placement, preprocessing.image_size or 0, transient)
    is_stored = pack.segment_of_row < len(known.stored)
    pack = replace(
        pack, segments=known.stored, slot_of_row=np.where(is_stored, pack.slot_of_row, -1)
    )
    images = OnTheFlyImages(scan, preprocessing, pack, threads, num_decoded=len(missing))
    return images, NewResults(contents, table)


def decode_once(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None] = ignore_progress,
) -> OnTheFlyImages:
    """Decode each image once for its result, keep no pixels, and return the on-the-fly images."""
    images, _ = open_unstored(
        scan, preprocessing, collect_keys(scan), KnownSegments(), threads=threads, progress=progress
    )
    return images
