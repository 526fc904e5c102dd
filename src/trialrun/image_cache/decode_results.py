"""Results of decoding a dataset: an error reason or a perceptual hash for every image."""

import base64
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialrun.image_cache.checked_json import read_checked_json, write_checked_json
from trialrun.image_cache.perceptual_hash import (
    PerceptualHashes,
    Sample,
    compute_hashes,
    parse_hashes,
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
    iterate_chunks,
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


@dataclass(frozen=True, slots=True)
class DecodeResults:
    """For every image a reason, empty if it is usable, its perceptual hash and its aspect ratio.

    `num_transient` counts failures that do not depend on the files' bytes alone: if it is above 0,
    the results are valid for this run only and must not be cached.
    """

    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    aspects: NDArray[np.float32]
    num_transient: int = 0


@dataclass(slots=True)
class ResultAccumulator:
    """Accumulates the results of decoded images."""

    _reasons: list[str] = field(default_factory=list)
    _grays: bytearray = field(default_factory=bytearray)
    _aspects: list[float] = field(default_factory=list)
    _num_transient: int = 0

    def extend(self, images: Sequence[DecodedImage]) -> None:
        """Add the next images."""
        self._reasons += [image.reason for image in images]
        self._grays += shrink_to_grays([image.sample for image in images])
        self._aspects += [image.aspect for image in images]
        self._num_transient += sum(image.is_transient for image in images)

    def results(self) -> DecodeResults:
        """Return the results of all images.

        Hashes are computed here, when no decoding thread competes for Python's global lock.
        """
        perceptual_hashes = compute_hashes(bytes(self._grays))
        aspects = np.asarray(self._aspects, dtype=np.float32)
        return DecodeResults(tuple(self._reasons), perceptual_hashes, aspects, self._num_transient)


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


def decode_and_discard(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_TIMEOUT_SECONDS,
) -> DecodeResults:
    """Decode every image and return the results without the pixels."""
    accumulator = ResultAccumulator()
    rows = range(len(scan.files))
    decoded = decode_rows(
        scan, preprocessing, rows, threads=threads, seconds=seconds, sink=_discard_pixels
    )
    for chunk in iterate_chunks(decoded, RESULTS_PER_CHUNK):
        accumulator.extend(chunk)
        progress(len(chunk))
    return accumulator.results()


def _discard_pixels(_row: int, _pixels: Pixels) -> int:
    return 0


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


def write_results(path: Path, results: DecodeResults) -> None:
    """Write the results; `read_results` returns them."""
    write_checked_json(
        path,
        {
            "num_images": len(results.reasons),
            "reasons": {row: reason for row, reason in enumerate(results.reasons) if reason},
            "hashes": base64.b64encode(results.perceptual_hashes.tobytes()).decode(),
            "aspects": base64.b64encode(results.aspects.astype("<f4").tobytes()).decode(),
        },
    )


def read_results(path: Path) -> DecodeResults | None:
    """Read what `write_results` wrote; None if missing, damaged, or written by another version."""
    values = read_checked_json(path)
    if values is None:
        return None
    try:
        reasons = [""] * int(values["num_images"])
        for row, reason in values["reasons"].items():
            reasons[int(row)] = reason
        perceptual_hashes = parse_hashes(base64.b64decode(values["hashes"]))
        aspects = np.frombuffer(base64.b64decode(values["aspects"]), dtype="<f4")
    except (KeyError, TypeError, ValueError):
        return None
    return DecodeResults(tuple(reasons), perceptual_hashes, aspects)
