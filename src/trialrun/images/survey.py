"""Every image file read once: its content's hash, its size in pixels, and whether it is an image.

Pixels are not decoded here. The survey is the data's identity: the digest of a dataset and the key
of its pack come from it.
"""

import hashlib
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.header import UndecodableError, read_header

DEFAULT_IMAGE_SIZE = 224
_SIZE_STEP = 32  # what torchvision's networks divide height and width by


@dataclass(frozen=True, slots=True)
class Sighting:
    """One file as found: `reason` is empty where its header is that of a usable image."""

    sha256: str
    num_bytes: int
    width: int
    height: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """Sightings of an image set's files, one an item, in the items' order."""

    images: ImageSet
    sightings: tuple[Sighting, ...]

    def content_digest(self) -> str:
        """A hash over names, labels and bytes of all files, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for item, seen in zip(self.images.items, self.sightings, strict=True):
            row = f"{item.name}\0{item.label}\0{seen.sha256}\n"
            digest.update(row.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def survey(images: ImageSet, *, threads: int) -> Survey:
    """Read every file of `images` with `threads` threads."""
    with ThreadPoolExecutor(threads) as pool:
        look = partial(_look, images.root)
        return Survey(images, tuple(pool.map(look, images.items)))


def _look(root: Path, item: ImageItem) -> Sighting:
    try:
        data = (root / item.name).read_bytes()
    except OSError as error:
        return Sighting("", 0, 0, 0, f"cannot be read: {error.strerror or error}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        header = read_header(data)
    except UndecodableError as error:
        return Sighting(digest, len(data), 0, 0, str(error))
    return Sighting(digest, len(data), header.width, header.height)


def auto_image_size(surveys: Sequence[Survey]) -> int:
    """224, or where the images are smaller their median shorter side, rounded up to 32s."""
    sides = [
        min(seen.width, seen.height)
        for surveyed in surveys
        for seen in surveyed.sightings
        if not seen.reason
    ]
    if not sides:
        return DEFAULT_IMAGE_SIZE
    rounded = -(-int(statistics.median(sides)) // _SIZE_STEP) * _SIZE_STEP
    return min(max(rounded, _SIZE_STEP), DEFAULT_IMAGE_SIZE)
