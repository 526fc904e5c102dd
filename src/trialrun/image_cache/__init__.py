"""Cache of decoded images, shared by epochs, trials, workers and ranks.

A `Pack` is the decoded images of one dataset at one size. They are stored in memory-mapped files,
segments, by the contents of the image files, so that each image is decoded once. Images that do not
fit into the cache are decoded on the fly.
"""

from trialrun.image_cache.filter import (
    MAX_UNREADABLE_FRACTION,
    SkippedImage,
    list_skipped,
    select_usable,
)
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.image_cache.open import open_live, open_pack
from trialrun.image_cache.pack import DecodedImages, Pack

__all__ = [
    "MAX_UNREADABLE_FRACTION",
    "DecodedImages",
    "OnTheFlyImages",
    "Pack",
    "SkippedImage",
    "list_skipped",
    "open_live",
    "open_pack",
    "select_usable",
]
