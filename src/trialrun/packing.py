"""Decoded images on disk: every image is decoded once, then read from a memory map.

A pack is a folder named by its key (the hash of the files' contents, the preprocessing and the
decoder's version) that holds `pixels.npy`, (N, 3, S, S) uint8, and `pack.json`, which says for each
row whether it could be decoded. It bears its name only once it is whole; one process writes, the
others wait. Tensor letters: N images, S the image size.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from trialrun.errors import InvalidDatasetError
from trialrun.files import new_directory, storage_errors, write_durably
from trialrun.images.dataset import ImageItem, ImageSet, printable
from trialrun.images.decoder import DECODER_VERSION
from trialrun.images.header import UndecodableError
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.survey import Sighting, Survey

MAX_UNREADABLE_FRACTION = 0.1  # more than this is no accident but a wrong folder

_PIXELS = "pixels.npy"
_CONTENTS = "pack.json"
_CHUNK_IMAGES = 256  # decoded at a time: bounds what waits to be written, 38 MB at 224 pixels

Progress = Callable[[int], None]


def _no_progress(_num_images: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Decoded images: a row an image of its set, `reasons[row]` empty where it is usable."""

    rows: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
    reasons: tuple[str, ...]

    def usable(self) -> list[int]:
        """The rows that hold an image."""
        return [row for row, reason in enumerate(self.reasons) if not reason]

    def pixels(self, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Tensor:
        """(N, 3, S, S) uint8, the images at `rows` in that order."""
        return torch.from_numpy(self.rows[rows])


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that was left out, and why."""

    name: str
    reason: str


def open_pack(
    surveyed: Survey,
    preprocessing: Preprocessing,
    folder: Path,
    *,
    threads: int,
    progress: Progress = _no_progress,
) -> Pack:
    """The pack of a surveyed set below `folder`, made if it is not there.

    Raises:
        StorageError: The folder cannot be written.
    """
    place = folder / _key(surveyed, preprocessing)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not (place / _CONTENTS).is_file():
            with new_directory(place) as draft:
                _write(surveyed, preprocessing, draft, threads, progress)
    contents = json.loads((place / _CONTENTS).read_text("utf-8"))
    return Pack(np.load(place / _PIXELS, mmap_mode="r"), tuple(contents["reasons"]))


def skipped_images(images: ImageSet, reasons: Sequence[str]) -> list[Skipped]:
    """The images that were left out; `reasons` holds one an image, empty where it was kept."""
    return [
        Skipped(printable(item.name), reason)
        for item, reason in zip(images.items, reasons, strict=True)
        if reason
    ]


def usable_subset(images: ImageSet, pack: Pack, *, strict: bool) -> ImageSet:
    """The images that could be decoded.

    Raises:
        InvalidDatasetError: More than a tenth cannot be read, or any where `strict`, or a class
            has none left.
    """
    skipped = skipped_images(images, pack.reasons)
    if not skipped:
        return images
    first = f"{skipped[0].name}: {skipped[0].reason}"
    count = f"{len(skipped)} of {len(images)} images in {images.source} cannot be read ({first})"
    if strict or len(skipped) > MAX_UNREADABLE_FRACTION * len(images):
        raise InvalidDatasetError(count, "Remove or replace them; `strict=false` skips a few.")
    usable = images.subset(pack.usable())
    if lost := set(images.classes) - set(usable.classes):
        raise InvalidDatasetError(
            f"{count}, none of {', '.join(sorted(lost))} can", "Replace them."
        )
    return usable


def _key(surveyed: Survey, preprocessing: Preprocessing) -> str:
    digest = hashlib.sha256(f"{DECODER_VERSION} {preprocessing.image_size}\n".encode())
    for seen in surveyed.sightings:
        digest.update(f"{seen.sha256 or seen.reason}\n".encode())
    return digest.hexdigest()


def _write(
    surveyed: Survey, preprocessing: Preprocessing, draft: Path, threads: int, progress: Progress
) -> None:
    size = preprocessing.image_size
    assert size is not None, "a pack has one size"
    shape = (len(surveyed.sightings), 3, size, size)
    reasons: list[str] = []
    with storage_errors(draft), ThreadPoolExecutor(threads) as pool:
        rows = np.lib.format.open_memmap(draft / _PIXELS, "w+", np.uint8, shape)
        pairs = list(zip(surveyed.images.items, surveyed.sightings, strict=True))
        decode = partial(_decoded, surveyed.images.root, preprocessing)
        for start in range(0, len(pairs), _CHUNK_IMAGES):
            for pixels, reason in pool.map(decode, pairs[start : start + _CHUNK_IMAGES]):
                if pixels is not None:
                    rows[len(reasons)] = pixels.numpy()
                reasons.append(reason)
                progress(1)
        rows.flush()
    write_durably(draft / _CONTENTS, json.dumps({"reasons": reasons}))


def _decoded(
    root: Path, preprocessing: Preprocessing, pair: tuple[ImageItem, Sighting]
) -> tuple[Tensor | None, str]:
    item, seen = pair
    if seen.reason:
        return None, seen.reason
    try:
        data = (root / item.name).read_bytes()
        if hashlib.sha256(data).hexdigest() != seen.sha256:
            return None, "changed while it was being read"
        return preprocessing.pixels(data), ""
    except OSError as error:
        return None, f"cannot be read: {error.strerror or error}"
    except UndecodableError as error:
        return None, str(error)
