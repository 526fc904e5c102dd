"""Reads and validates image directories; decodes one image at a time.

`decoder` and `preprocessing` need torch and are imported by name where they are used, so that a
wrong folder is told before torch is loaded.
"""

from trialrun.images.checks.classes import check_same_classes, check_trainable
from trialrun.images.dataset import (
    ImageItem,
    ImageSet,
    escape_non_utf8,
    label_indices,
    make_printable,
)
from trialrun.images.source import open_data
from trialrun.images.split import split_stratified

__all__ = [
    "ImageItem",
    "ImageSet",
    "check_same_classes",
    "check_trainable",
    "escape_non_utf8",
    "label_indices",
    "make_printable",
    "open_data",
    "split_stratified",
]
