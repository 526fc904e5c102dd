"""Scan of a dataset: the hash, pixel size and problems of every image file.

A scan reads each file once and parses its header; it does not decode pixels. The digest of a
dataset and the cache key of its decoded images are computed from the scan.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.decoding.file_io import FileContent, read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.items import ItemTable
from trialrun.images.scanning.file_scan import (
    FileScan,
    Progress,
    Scans,
    ScanTable,
    report_timeout,
    scan_content,
    select_sides,
)
from trialrun.images.scanning.shard_scan import scan_shards
from trialrun.images.scanning.thread_pool import iterate_chunks, map_in_order

DEFAULT_IMAGE_SIZE = 224
CHANGED_REASON = "changed while it was being read"
GOOD, WARNED, SKIPPED = "good", "warned", "skipped"  # results of `classify_image`

_CHUNK_SIZE = 32  # files per job of a thread; reading one takes 0.05 ms if it is in memory
_ROWS_AT_ONCE = 4096  # of a set in shards
_SIZE_STEP = 32  # torchvision's networks reduce height and width by this factor


_DigestRow = tuple[str, str | None, str]
ScanLookup = Callable[[ImageItem], FileScan | None]


def ignore_progress(_num_images: int) -> None:
    """Report nothing."""


def _find_no_scan(_item: ImageItem) -> None:
    """Return None: no earlier scan is known."""


@dataclass(frozen=True, slots=True)
class DatasetScan:
    """Scans of an image set's files, one per item, in the items' order."""

    images: ImageSet
    files: Scans

    def content_digest(self) -> str:
        """Hash the names, labels and contents of all files; 64 hexadecimal digits.

        Of shards that `trialrun data shard` wrote, the order of the images before sharding counts,
        so that a folder and its shards have the same digest.
        """
        digest = hashlib.sha256()
        for rows in self._iterate_in_source_order():
            text = "".join([f"{name}\0{label}\0{sha256}\n" for name, label, sha256 in rows])
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _iterate_in_source_order(self) -> Iterator[Iterable[_DigestRow]]:
        """Yield name, label and hash of each file, many at once."""
        items, files, shards = self.images.items, self.files, self.images.shards
        if shards is None or not isinstance(items, ItemTable) or not isinstance(files, ScanTable):
            rows = zip(items, files, strict=True)
            yield from iterate_chunks(
                ((item.name, item.label, file.sha256) for item, file in rows), _ROWS_AT_ONCE
            )
            return
        places = shards.sort_rows(items.rows)
        for start in range(0, len(places), _ROWS_AT_ONCE):
            chunk = places[start : start + _ROWS_AT_ONCE]
            names, labels = items.names.take(chunk), items.labels.take(chunk)
            digests = files.table["sha256"].take(chunk).to_pylist()
            hashes = ["" if sha256 is None else sha256.hex() for sha256 in digests]
            yield zip(names.to_pylist(), labels.to_pylist(), hashes, strict=True)


def scan_files(
    images: ImageSet,
    *,
    threads: int,
    lookup: ScanLookup = _find_no_scan,
    progress: Progress = ignore_progress,
) -> DatasetScan:
    """Scan every file of `images` for which `lookup` returns no earlier scan.

    Files in shards are not read if the index of the shards has their scans.
    """
    if images.shards is not None:
        return DatasetScan(images, scan_shards(images, threads, progress))
    files: list[FileScan] = []
    scans = map_in_order(
        partial(_scan_file, images, lookup),
        images.items,
        threads=threads,
        on_timeout=report_timeout,
        chunk_size=_CHUNK_SIZE,
    )
    for chunk in iterate_chunks(scans, _CHUNK_SIZE):
        files += chunk
        progress(len(chunk))
    return DatasetScan(images, tuple(files))


def classify_image(file: FileScan, decode_reason: str) -> str:
    """Return `SKIPPED` if decoding failed for `decode_reason`, else `WARNED` or `GOOD`."""
    if decode_reason:
        return SKIPPED
    return WARNED if file.warning else GOOD


def describe_file(item: ImageItem, file: FileScan, decode_reason: str) -> dict[str, Any]:
    """Return the columns that the manifests of runs and of ImageDirectories share, in order."""
    return {
        "label": item.label,
        "sha256": file.sha256,
        "bytes": file.num_bytes,
        "width": file.width,
        "height": file.height,
        "verdict": classify_image(file, decode_reason),
    }


def is_unchanged(content: FileContent, file: FileScan) -> bool:
    """Whether a file's content is the scanned one.

    Compares fingerprints if there are any: hashing takes as long as reading.
    """
    if content.fingerprint is not None and content.fingerprint == file.fingerprint:
        return True
    return hashlib.sha256(content.data).hexdigest() == file.sha256


def choose_image_size(scans: Sequence[DatasetScan], *, max_size: int = DEFAULT_IMAGE_SIZE) -> int:
    """Return the median shorter side, rounded up to a multiple of 32 but at most `max_size`."""
    sides = np.concatenate([select_sides(scan.files).min(axis=1) for scan in scans])
    if not len(sides):
        return max_size
    rounded = -(-int(np.median(sides)) // _SIZE_STEP) * _SIZE_STEP
    return min(max(rounded, _SIZE_STEP), max_size)


def _scan_file(images: ImageSet, lookup: ScanLookup, item: ImageItem) -> FileScan:
    if (earlier := lookup(item)) is not None:
        return earlier
    try:
        content = read_item(images, item)
    except UndecodableError as error:
        return FileScan("", 0, 0, 0, str(error))
    return scan_content(item.name, content)
