"""Converts datasets to ImageDirectories."""

from pathlib import Path

from trialrun.config.data import DEFAULT_DATA_CONFIG, ConvertConfig, DataConfig
from trialrun.image_cache import list_skipped
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images.formats.columns import collect_columns
from trialrun.images.formats.image_directory_writer import (
    RESERVED_COLUMNS,
    WriteResult,
    write_image_directory,
)
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.datasets.check import CheckedSet, check_set
from trialrun.runs.datasets.outputs import check_outside, output_folder
from trialrun.runs.datasets.sources import open_source

_DEFAULT_CONFIG = ConvertConfig()


def convert_dataset(
    source: str,
    out: str,
    *,
    config: ConvertConfig = _DEFAULT_CONFIG,
    callback: RunCallback | None = None,
) -> WriteResult:
    """Write `source` as an ImageDirectory; skip unreadable images and note them.

    Raises:
        TrialrunError: `source` cannot be opened, or `out` exists or cannot be written.
    """
    folder = output_folder(out)
    images = open_source(source, group_pattern=config.group_pattern, config=config)
    check_outside(folder, images)
    enforce_cache_limit()
    callback = callback or NoOpCallback()
    return write_set(
        check_set(images, callback),
        folder,
        callback,
        config=config,
        has_group_pattern=config.group_pattern is not None,
    )


def write_set(
    checked: CheckedSet,
    out: Path,
    callback: RunCallback,
    named: Path | None = None,
    *,
    config: DataConfig = DEFAULT_DATA_CONFIG,
    has_group_pattern: bool = False,
) -> WriteResult:
    """Write the usable images of a checked set to `out`, and note the others.

    `named` is the folder's final name if `out` is a draft that is renamed later. The columns of an
    image list are kept, and groups that a pattern found are the column `group`.
    """
    for image in list_skipped(checked.images, checked.decoded.reasons):
        callback.on_note(f"skipped {image.name}: {image.reason}")
    for note in checked.images.notes:
        callback.on_note(f"{checked.images.source}: {note}")
    columns = collect_columns(checked.images, config, has_group_pattern=has_group_pattern)
    for name in sorted({name for row in columns.values() for name in row} & RESERVED_COLUMNS):
        callback.on_note(f"the column {name} is left out: ImageDirectories have their own")
    return write_image_directory(
        checked.scan, checked.decoded.reasons, out, final_path=named, columns=columns
    )
