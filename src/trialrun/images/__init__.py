"""Datasets of images: reading, checking, splitting and decoding.

`decoding.decode` and `decoding.preprocessing` need torch and are not imported here, so that a wrong
folder is reported before torch is loaded.
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
