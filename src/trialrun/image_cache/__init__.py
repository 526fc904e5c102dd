"""Decoded images on disk, shared by epochs, trials, workers and ranks; each is decoded once."""

from trialrun.image_cache.filter import (
    MAX_UNREADABLE_FRACTION,
    SkippedImage,
    list_skipped,
    select_usable,
)
from trialrun.image_cache.open import DecodedImages, open_pack
from trialrun.image_cache.store import Pack

__all__ = [
    "MAX_UNREADABLE_FRACTION",
    "DecodedImages",
    "Pack",
    "SkippedImage",
    "list_skipped",
    "open_pack",
    "select_usable",
]
