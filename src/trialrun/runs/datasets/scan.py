"""Scans the files of a dataset through the cache of scans."""

from trialrun.cache.location import scans_folder
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.image_cache.scan_cache import scan_with_cache
from trialrun.images import ImageSet
from trialrun.images.scanning.scan import DatasetScan
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.runs.callbacks import READING, NoOpCallback, RunCallback


def scan_set(images: ImageSet, callback: RunCallback | None = None) -> DatasetScan:
    """Every file looked at, those excepted that have not changed since they were."""
    enforce_cache_limit()  # an archive may just have been unpacked
    callback = callback or NoOpCallback()
    callback.on_scan_start(READING, len(images))
    return scan_with_cache(
        images, scans_folder(), threads=count_threads(), progress=callback.on_scan_progress
    )
