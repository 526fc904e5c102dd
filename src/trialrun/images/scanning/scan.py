"""Every image file read once: its content's hash, its size in pixels, and whether it is an image.

Pixels are not decoded here. The survey is the data's identity: the digest of a dataset and the key
of its pack come from it.
"""

import hashlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.decoding.file_io import (
    FileContent,
    FileFingerprint,
    read_file_with_fingerprint,
)
from trialrun.images.decoding.header import TransientDecodeError, UndecodableError, read_header
from trialrun.images.scanning.thread_pool import TOO_SLOW, iterate_chunks, map_in_order

DEFAULT_IMAGE_SIZE = 224
CHANGED = "changed while it was being read"
_TOGETHER = 32  # files a thread takes at once: one takes 0.05 ms where it is in memory
_SIZE_STEP = 32  # what torchvision's networks divide height and width by


@dataclass(frozen=True, slots=True)
class FileScan:
    """One file as found: `reason` is empty where its header is that of a usable image.

    `warning` says what a person should know of an image that is used all the same, `stamp` by what
    it can be told that the file has not changed.
    """

    sha256: str
    num_bytes: int
    width: int
    height: int
    reason: str = ""
    warning: str = ""
    stamp: FileFingerprint | None = None


Known = Callable[[ImageItem], FileScan | None]
Progress = Callable[[int], None]


def ignore_progress(_num_images: int) -> None:
    """Tell nobody."""


def _no_known_scans(_item: ImageItem) -> None:
    """Every file is to be read."""


@dataclass(frozen=True, slots=True)
class DatasetScan:
    """Sightings of an image set's files, one an item, in the items' order."""

    images: ImageSet
    files: tuple[FileScan, ...]

    def content_digest(self) -> str:
        """A hash over names, labels and bytes of all files, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for item, seen in zip(self.images.items, self.files, strict=True):
            row = f"{item.name}\0{item.label}\0{seen.sha256}\n"
            digest.update(row.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def scan_files(
    images: ImageSet,
    *,
    threads: int,
    known: Known = _no_known_scans,
    progress: Progress = ignore_progress,
) -> DatasetScan:
    """Read every file of `images` that is not `known` already, with `threads` threads."""
    files: list[FileScan] = []
    look = partial(_scan_file, images.root, known)
    looked = map_in_order(look, images.items, threads=threads, late=_time_out, together=_TOGETHER)
    for some in iterate_chunks(looked, _TOGETHER):
        files += some
        progress(len(some))
    return DatasetScan(images, tuple(files))


def is_unchanged(content: FileContent, seen: FileScan) -> bool:
    """Whether a file's bytes are those of its sighting: by its stamp where it has one, as hashing
    takes as long as reading.
    """
    if content.stamp is not None and content.stamp == seen.stamp:
        return True
    return hashlib.sha256(content.data).hexdigest() == seen.sha256


def _time_out(_item: ImageItem) -> FileScan:
    return FileScan("", 0, 0, 0, TOO_SLOW)


def _scan_file(root: Path, known: Known, item: ImageItem) -> FileScan:
    if (seen := known(item)) is not None:
        return seen
    try:
        content = read_file_with_fingerprint(root, item.name)
    except UndecodableError as error:
        return FileScan("", 0, 0, 0, str(error))
    digest, size = hashlib.sha256(content.data).hexdigest(), len(content.data)
    try:
        header = read_header(content.data)
    except (
        TransientDecodeError
    ) as error:  # no hash, no stamp: neither ledger nor pack may keep the reason
        return FileScan("", size, 0, 0, str(error))
    except UndecodableError as error:
        return FileScan(digest, size, 0, 0, str(error), stamp=content.stamp)
    warning = header.warning(item.name)
    return FileScan(digest, size, header.width, header.height, "", warning, content.stamp)


def choose_image_size(scans: Sequence[DatasetScan], *, most: int = DEFAULT_IMAGE_SIZE) -> int:
    """`most`, or where the images are smaller their median shorter side, rounded up to 32s."""
    sides = [
        min(seen.width, seen.height) for scan in scans for seen in scan.files if not seen.reason
    ]
    if not sides:
        return most
    rounded = -(-int(statistics.median(sides)) // _SIZE_STEP) * _SIZE_STEP
    return min(max(rounded, _SIZE_STEP), most)
