"""Decoded images on disk, shared by epochs, trials, workers and ranks; each is decoded once."""

from trialrun.packing.open import DecodedImages, open_pack
from trialrun.packing.pack import Pack
from trialrun.packing.usable import (
    MAX_UNREADABLE_FRACTION,
    Skipped,
    skipped_images,
    usable_subset,
)

__all__ = [
    "MAX_UNREADABLE_FRACTION",
    "DecodedImages",
    "Pack",
    "Skipped",
    "open_pack",
    "skipped_images",
    "usable_subset",
]
