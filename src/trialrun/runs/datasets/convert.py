"""Converts datasets to ImageDirectories."""

from pathlib import Path

from trialrun.image_cache import list_skipped
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images.formats.image_directory_writer import WriteResult, write_image_directory
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.datasets.check import CheckedSet, check_set
from trialrun.runs.datasets.outputs import check_outside, output_folder
from trialrun.runs.datasets.sources import open_source


def convert_dataset(source: str, out: str, *, callback: RunCallback | None = None) -> WriteResult:
    """Write `source` as an ImageDirectory; skip unreadable images and note them.

    Raises:
        TrialrunError: `source` cannot be opened, or `out` exists or cannot be written.
    """
    folder = output_folder(out)
    images = open_source(source)
    check_outside(folder, images)
    enforce_cache_limit()
    checked = check_set(images, callback or NoOpCallback())
    return write_set(checked, folder, callback or NoOpCallback())


def write_set(
    checked: CheckedSet, out: Path, callback: RunCallback, named: Path | None = None
) -> WriteResult:
    """Write the usable images of a checked set to `out`, and note the others.

    `named` is the folder's final name if `out` is a draft that is renamed later.
    """
    for image in list_skipped(checked.images, checked.decoded.reasons):
        callback.on_note(f"skipped {image.name}: {image.reason}")
    for note in checked.images.notes:
        callback.on_note(f"{checked.images.source}: {note}")
    return write_image_directory(checked.scan, checked.decoded.reasons, out, final_path=named)
