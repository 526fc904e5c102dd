"""Scans the files of a dataset through the cache of scans."""

from trialrun.cache.location import scans_folder
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.image_cache.scan_cache import surveyed_again
from trialrun.images import ImageSet
from trialrun.images.scanning.scan import Survey
from trialrun.images.scanning.thread_pool import num_threads
from trialrun.runs.callbacks import READING, Observer, Silent


def surveyed_set(images: ImageSet, observer: Observer | None = None) -> Survey:
    """Every file looked at, those excepted that have not changed since they were."""
    enforce_cache_limit()  # an archive may just have been unpacked
    observer = observer or Silent()
    observer.scanning(READING, len(images))
    return surveyed_again(images, scans_folder(), threads=num_threads(), progress=observer.scanned)
