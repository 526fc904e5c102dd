"""Scans the files of a dataset; results of unchanged files come from the scan cache."""

from trialrun.cache.location import scans_folder
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import ImageSet
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.runs.callbacks import READING, NoOpCallback, RunCallback


def scan_set(images: ImageSet, callback: RunCallback | None = None) -> DatasetScan:
    """Scan the files of a set, except those that have not changed since their last scan."""
    enforce_cache_limit()  # opening the set may have unpacked an archive into the cache
    callback = callback or NoOpCallback()
    callback.on_scan_start(READING, len(images))
    return scan_with_cache(
        images, scans_folder(), threads=count_threads(), progress=callback.on_scan_progress
    )
