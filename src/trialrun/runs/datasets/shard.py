"""Writes datasets as shards: few large files, which can be streamed from an object store."""

from dataclasses import dataclass
from pathlib import Path

from trialrun.config.shard import ShardConfig
from trialrun.errors import InvalidDatasetError
from trialrun.files import create_directory
from trialrun.image_cache import list_skipped
from trialrun.images import make_printable
from trialrun.images.items import encode_labels
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.shards.index import ShardIndex
from trialrun.images.shards.writing.write import ShardPlan, write_shards
from trialrun.runs.callbacks import WRITING, NoOpCallback, RunCallback
from trialrun.runs.datasets.outputs import check_outside, output_folder
from trialrun.runs.datasets.scan import scan_set
from trialrun.runs.datasets.sources import open_source

_DEFAULT_CONFIG = ShardConfig()
_MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The folder of written shards, and their numbers and sizes."""

    folder: str
    num_shards: int
    num_bytes: int
    num_images: int
    num_skipped: int
    images_by_class: dict[str, int]


def shard_dataset(
    source: str,
    out: str,
    *,
    config: ShardConfig = _DEFAULT_CONFIG,
    callback: RunCallback | None = None,
) -> ShardResult:
    """Write `source` as shards and an index of them; skip unreadable images and note them.

    Raises:
        TrialrunError: `source` cannot be opened, or `out` exists or cannot be written.
    """
    folder = output_folder(out)
    images = open_source(
        source,
        group_column=config.group_column,
        group_pattern=config.group_pattern,
        config=config,
    )
    check_outside(folder, images)
    callback = callback or NoOpCallback()
    for note in images.notes:
        callback.on_note(f"{images.source}: {note}")
    with create_directory(folder) as draft:
        scan = scan_set(images, callback)
        callback.on_scan_start(WRITING, _count_readable(scan, callback))
        plan = ShardPlan(
            config.format,
            config.shard_size_mb * _MEGABYTE,
            None if config.keep_order else config.random_seed,
        )
        index = write_shards(scan, plan, draft, callback.on_scan_progress)
    return _build_result(index, folder, len(images))


def _count_readable(scan: DatasetScan, callback: RunCallback) -> int:
    """Return the number of readable images; the others are named in notes.

    Raises:
        InvalidDatasetError: No image can be read.
    """
    skipped = list_skipped(scan.images, [file.reason for file in scan.files])
    for image in skipped:
        callback.on_note(f"skipped {image.name}: {image.reason}")
    if len(skipped) == len(scan.images):
        raise InvalidDatasetError(
            f"{scan.images.source} has no image that can be read", "Give a folder with images."
        )
    return len(scan.images) - len(skipped)


def _build_result(index: ShardIndex, folder: Path, num_images: int) -> ShardResult:
    num_by_label = encode_labels(index.items()).count()
    return ShardResult(
        str(folder),
        len(index.shards),
        sum(shard.num_bytes for shard in index.shards),
        index.table.num_rows,
        num_images - index.table.num_rows,
        {make_printable(name): num_by_label.get(name, 0) for name in index.classes},
    )
