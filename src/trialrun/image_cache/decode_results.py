"""Results of decoding a dataset: an error reason or a perceptual hash for every image."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trialrun.image_cache.perceptual_hash import (
    PerceptualHashes,
    Sample,
    compute_hashes,
    sample_image,
    shrink_to_grays,
)
from trialrun.images.decoding.file_io import hold_rows, read_item
from trialrun.images.decoding.fitting import find_central_square
from trialrun.images.decoding.header import TransientDecodeError, UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import CHANGED_REASON, DatasetScan, is_unchanged
from trialrun.images.scanning.thread_pool import (
    ITEM_TIMEOUT_SECONDS,
    TIMEOUT_REASON,
    map_in_order,
)

Pixels = NDArray[np.uint8]
# Takes a row and its pixels, and returns their checksum. Called in the thread that decoded the
# pixels, while they are in that core's cache.
PixelSink = Callable[[int, Pixels], int]

RESULTS_PER_CHUNK = 64  # images accumulated at once
_SMALL_PIXELS = 100 * 100
_IMAGES_PER_JOB = 8  # images a thread decodes before it takes others, about 10 ms


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image as (S, S, 3) uint8, or the reason why it could not be decoded.

    Of pixels passed to a sink, a sample and the checksum take the place of `pixels`. The failure
    `is_transient` if it depends on anything but the file's bytes. `aspect` is width by height of
    the image before it was fitted into the square.
    """

    pixels: Pixels | None
    reason: str = ""
    sample: Sample | None = None
    checksum: int = 0
    is_transient: bool = False
    aspect: float = 1.0


@dataclass(slots=True)
class ResultAccumulator:
    """Accumulates the perceptual hashes and the aspect ratios of decoded images."""

    aspects: list[float] = field(default_factory=list)
    _grays: bytearray = field(default_factory=bytearray)

    def extend(self, images: Sequence[DecodedImage]) -> None:
        """Add the next images."""
        self._grays += shrink_to_grays([image.sample for image in images])
        self.aspects += [image.aspect for image in images]

    def compute_hashes(self) -> PerceptualHashes:
        """Return the hashes of all images.

        They are computed last, when no decoding thread competes for Python's global lock.
        """
        return compute_hashes(bytes(self._grays))


def decode_rows(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    rows: Sequence[int],
    *,
    threads: int,
    seconds: float = ITEM_TIMEOUT_SECONDS,
    sink: PixelSink | None = None,
) -> Iterator[DecodedImage]:
    """Yield the images at `rows` in that order, decoded by `threads` threads.

    With a `sink`, pixels are passed to it and not kept. A file that has changed since the scan is
    not decoded.
    """
    threads = min(threads, _choose_threads(scan, rows))
    return map_in_order(
        _make_decoder(scan, preprocessing, sink),
        hold_rows(scan.images, rows),
        threads=threads,
        on_timeout=_time_out,
        timeout_seconds=seconds,
        chunk_size=min(max(len(rows) // (2 * threads), 1), _IMAGES_PER_JOB),
    )


def _choose_threads(scan: DatasetScan, rows: Sequence[int]) -> int:
    """Return the largest useful number of threads: 1 for small images.

    Threads wait for Python's global lock longer than they decode a small image: two threads took
    twice as long as one at 16 pixels per side, as long at 100, half as long at 256.
    """
    files = [scan.files[row] for row in rows[: _IMAGES_PER_JOB**2]]
    mean_pixels = sum(file.width * file.height for file in files) / max(len(files), 1)
    return 1 if mean_pixels < _SMALL_PIXELS else sys.maxsize


def _time_out(_row: int) -> DecodedImage:
    return DecodedImage(None, TIMEOUT_REASON, is_transient=True)


def _make_decoder(
    scan: DatasetScan, preprocessing: Preprocessing, sink: PixelSink | None
) -> Callable[[int], DecodedImage]:
    images, items, files = scan.images, scan.images.items, scan.files

    def decode_row(row: int) -> DecodedImage:
        file = files[row]
        if file.reason:
            return DecodedImage(None, file.reason)
        try:
            content = read_item(images, items[row])
            if not is_unchanged(content, file):
                return DecodedImage(None, CHANGED_REASON, is_transient=True)
            prepared, aspect = preprocessing.decode_with_aspect(content.data)
            pixels = prepared.numpy().transpose(1, 2, 0)
        except UndecodableError as error:
            return DecodedImage(
                None, str(error), is_transient=isinstance(error, TransientDecodeError)
            )
        pixels = np.ascontiguousarray(pixels)
        if sink is None:
            return DecodedImage(pixels, aspect=aspect)
        sample = sample_image(pixels, *find_central_square(preprocessing.fit, aspect))
        return DecodedImage(None, "", sample, sink(row, pixels), aspect=aspect)

    return decode_row
