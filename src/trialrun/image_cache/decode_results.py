"""What decoding found of every image of a set: a reason where it failed, else how it looks."""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.files import write_atomically
from trialrun.image_cache.perceptual_hash import (
    PerceptualHashes,
    Sample,
    compute_hashes,
    sample_image,
    shrink_to_grays,
    stack_hashes,
)
from trialrun.images.decoding.file_io import read_file_with_fingerprint
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
# Takes a row's pixels in the thread that decoded them, where they are still in its processor's
# cache; gives a checksum of them.
Keep = Callable[[int, Pixels], int]

JUDGED_TOGETHER = 64  # images that are counted at once
_SMALL_PIXELS = 100 * 100
_TOGETHER = 8  # images a thread decodes before it takes others, about 10 ms


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One image as (S, S, 3) uint8, or the reason why there is none.

    Where the pixels were kept elsewhere there are a checksum and a sample in their place. What
    `is_passing` failed for want of something other than the file's bytes.
    """

    pixels: Pixels | None
    reason: str = ""
    sample: Sample | None = None
    checksum: int = 0
    is_passing: bool = False


@dataclass(frozen=True, slots=True)
class DecodeResults:
    """A reason an image, empty where it is usable, and the likenesses.

    With `num_passing` above 0 they hold for now alone and must not be kept: so many reasons are
    none that the files' bytes give.
    """

    reasons: tuple[str, ...]
    perceptual_hashes: PerceptualHashes
    num_transient: int = 0


@dataclass(slots=True)
class ResultAccumulator:
    """Verdicts while images come in."""

    _reasons: list[str] = field(default_factory=list)
    _grays: bytearray = field(default_factory=bytearray)
    _num_passing: int = 0

    def extend(self, decoded: Sequence[DecodedImage]) -> None:
        """Count the next images."""
        self._reasons += [each.reason for each in decoded]
        self._grays += shrink_to_grays([each.sample for each in decoded])
        self._num_passing += sum(each.is_passing for each in decoded)

    def verdicts(self) -> DecodeResults:
        """Of all images; hashed now, when no other thread waits for Python's lock."""
        perceptual_hashes = compute_hashes(bytes(self._grays))
        return DecodeResults(tuple(self._reasons), perceptual_hashes, self._num_passing)


def decode_rows(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    rows: Sequence[int],
    *,
    threads: int,
    seconds: float = ITEM_TIMEOUT_SECONDS,
    keep: Keep | None = None,
) -> Iterator[DecodedImage]:
    """The images at `rows`, decoded by `threads` threads, in that order; `keep` takes the pixels.

    A file whose bytes are no longer those that were surveyed is refused.
    """
    threads = min(threads, _choose_threads(scan, rows))
    return map_in_order(
        _make_decoder(scan, preprocessing, keep),
        rows,
        threads=threads,
        on_timeout=_time_out,
        timeout_seconds=seconds,
        chunk_size=min(max(len(rows) // (2 * threads), 1), _TOGETHER),
    )


def _choose_threads(scan: DatasetScan, rows: Sequence[int]) -> int:
    """1 where images are so small that threads would wait for Python's lock longer than they work.

    Two threads took twice as long as one at 16 pixels a side, as long at 100, half as long at 256.
    """
    some = [scan.files[row] for row in rows[: _TOGETHER**2]]
    mean_pixels = sum(seen.width * seen.height for seen in some) / max(len(some), 1)
    return 1 if mean_pixels < _SMALL_PIXELS else sys.maxsize


def decode_and_discard(
    scan: DatasetScan,
    preprocessing: Preprocessing,
    *,
    threads: int,
    progress: Callable[[int], None],
    seconds: float = ITEM_TIMEOUT_SECONDS,
) -> DecodeResults:
    """Decode every image and keep the verdict alone."""
    tally = ResultAccumulator()
    rows = range(len(scan.files))
    decoded = decode_rows(
        scan, preprocessing, rows, threads=threads, seconds=seconds, keep=_keep_nothing
    )
    for some in iterate_chunks(decoded, JUDGED_TOGETHER):
        tally.extend(some)
        progress(len(some))
    return tally.verdicts()


def _keep_nothing(_row: int, _pixels: Pixels) -> int:
    return 0


def _time_out(_row: int) -> DecodedImage:
    return DecodedImage(None, TIMEOUT_REASON, is_passing=True)


def _make_decoder(
    scan: DatasetScan, preprocessing: Preprocessing, keep: Keep | None
) -> Callable[[int], DecodedImage]:
    root, items, files = scan.images.root, scan.images.items, scan.files

    def decoded(row: int) -> DecodedImage:
        seen = files[row]
        if seen.reason:
            return DecodedImage(None, seen.reason)
        try:
            content = read_file_with_fingerprint(root, items[row].name)
            if not is_unchanged(content, seen):
                return DecodedImage(None, CHANGED_REASON, is_passing=True)
            pixels = preprocessing.decode(content.data).numpy().transpose(1, 2, 0)
        except UndecodableError as error:
            return DecodedImage(
                None, str(error), is_passing=isinstance(error, TransientDecodeError)
            )
        pixels = np.ascontiguousarray(pixels)
        if keep is None:
            return DecodedImage(pixels)
        return DecodedImage(None, "", sample_image(pixels), keep(row, pixels))

    return decoded


def write_results(path: Path, verdicts: DecodeResults, facts: dict[str, Any]) -> None:
    """Write the verdicts and what else is to be known, under a checksum: a part is no whole."""
    content = json.dumps(
        {
            **facts,
            "num_images": len(verdicts.reasons),
            "reasons": {row: reason for row, reason in enumerate(verdicts.reasons) if reason},
            "likenesses": base64.b64encode(verdicts.perceptual_hashes.tobytes()).decode(),
        }
    )
    write_atomically(path, f"{sha256(content.encode()).hexdigest()}\n{content}\n")


def read_results(path: Path) -> tuple[DecodeResults, dict[str, Any]] | None:
    """What `write_verdicts` wrote; None where it is missing, damaged, or another version's."""
    try:
        checksum, content, _ = path.read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return None
    if sha256(content.encode()).hexdigest() != checksum:
        return None
    try:
        facts = json.loads(content)
        reasons = [""] * int(facts["num_images"])
        for row, reason in facts["reasons"].items():
            reasons[int(row)] = reason
        return DecodeResults(
            tuple(reasons), stack_hashes(base64.b64decode(facts["likenesses"]))
        ), facts
    except (KeyError, TypeError, ValueError):
        return None
