"""Scan of a set in shards: their images are read in the order of the shards, many at once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trialrun.images.dataset import ImageSet
from trialrun.images.decoding.file_io import FileContent
from trialrun.images.items import ItemTable, iterate_names
from trialrun.images.scanning.file_scan import (
    SCAN_COLUMNS,
    FileScan,
    Progress,
    ScanColumns,
    ScanTable,
    report_timeout,
    scan_content,
)
from trialrun.images.scanning.thread_pool import map_in_order

if TYPE_CHECKING:
    import pyarrow as pa

# Limits of the images that a thread scans at once.
_MAX_ROWS = 512
_MAX_BYTES = 4 << 20


def scan_shards(images: ImageSet, threads: int, progress: Progress) -> ScanTable:
    """Return the recorded scans of a set in shards, or read all its files."""
    assert images.shards is not None
    assert isinstance(images.items, ItemTable)
    if (recorded := images.shards.recorded) is not None:
        progress(len(images))
        return ScanTable(recorded.select(SCAN_COLUMNS).take(images.items.rows))
    rows = images.items.rows
    if bool((rows[1:] > rows[:-1]).all()):
        return ScanTable(_scan_in_order(images, images.items, threads, progress))
    order = np.argsort(rows, kind="stable")
    scans = _scan_in_order(images, images.items.take(order), threads, progress)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return ScanTable(scans.take(places))


def _scan_in_order(
    images: ImageSet, items: ItemTable, threads: int, progress: Progress
) -> "pa.Table":
    columns = ScanColumns(len(items))
    blocks = map_in_order(
        _scan_block,
        _read_blocks(images, items),
        threads=threads,
        on_timeout=_scan_one_by_one,
        max_jobs=2 * threads,
    )
    for scans in blocks:
        columns.add(scans)
        progress(len(scans))
    return columns.build()


@dataclass(slots=True)
class _Block:
    """Names and contents of images, or why an image has none."""

    names: list[str] = field(default_factory=list)
    contents: list[bytes | str] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, name: str, content: bytes | str) -> None:
        """Add one image."""
        self.names.append(name)
        self.contents.append(content)
        self.num_bytes += len(content)

    @property
    def is_full(self) -> bool:
        """Whether a thread has enough to do with these images."""
        return len(self.names) == _MAX_ROWS or self.num_bytes >= _MAX_BYTES


def _read_blocks(images: ImageSet, items: ItemTable) -> Iterator[_Block]:
    assert images.shards is not None
    block = _Block()
    contents = images.shards.read_in_order(items.rows)
    for name, content in zip(iterate_names(items), contents, strict=True):
        block.add(name, content)
        if block.is_full:
            yield block
            block = _Block()
    if block.names:
        yield block


def _scan_block(block: _Block) -> list[FileScan]:
    return [_scan(image) for image in zip(block.names, block.contents, strict=True)]


def _scan(image: tuple[str, bytes | str]) -> FileScan:
    name, content = image
    if isinstance(content, str):
        return FileScan("", 0, 0, 0, content)
    return scan_content(name, FileContent(content, None))


def _scan_one_by_one(block: _Block) -> list[FileScan]:
    """Scan images of which one takes too long, each with a time limit of its own."""
    pairs = zip(block.names, block.contents, strict=True)
    return list(map_in_order(_scan, pairs, threads=1, on_timeout=report_timeout))
