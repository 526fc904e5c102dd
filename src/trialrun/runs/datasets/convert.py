"""Writes any dataset as an ImageDirectory."""

from pathlib import Path

from trialrun.image_cache import list_skipped
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images.formats.image_directory_writer import WriteResult, write_image_directory
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.datasets.check import CheckedSet, check_set
from trialrun.runs.datasets.outputs import check_outside, output_folder
from trialrun.runs.datasets.sources import open_source


def convert_dataset(source: str, out: str, *, callback: RunCallback | None = None) -> WriteResult:
    """Write DATA as an ImageDirectory; images that cannot be read are left out and noted.

    Raises:
        TrialrunError: DATA cannot be opened, or `out` exists or cannot be written.
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
    """Write the usable images of a checked set to `out`; report the others."""
    for each in list_skipped(checked.images, checked.decoded.reasons):
        callback.note(f"left out {each.name}: {each.reason}")
    for note in checked.images.notes:
        callback.note(f"{checked.images.source}: {note}")
    return write_image_directory(checked.scan, checked.decoded.reasons, out, final_path=named)
