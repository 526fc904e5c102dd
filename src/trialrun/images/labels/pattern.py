"""Labels found in the names of images, such as `cat` in `cat.0.jpg`."""

import re
from dataclasses import replace
from functools import partial

import numpy as np

from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.items import encode_labels, label_items

_GROUP = "label"
_HINT = r"Give one such as '(?P<label>[a-z]+)\.\d+\.jpg$'."


def label_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    """Set each image's label to what the group `label` of `pattern` finds in its name.

    An image without a match has no label.

    Raises:
        InvalidParameterError: Not a regular expression, without a group `label`, or it matches no
            name.
    """
    compiled = compile_label_pattern(pattern)
    find_label = partial(_find_label, pattern=compiled)
    items = label_items(images.items, find_label)
    unmatched = np.flatnonzero(encode_labels(items).codes < 0)
    if items and len(unmatched) == len(items):
        raise InvalidParameterError(
            f"label_pattern={pattern} matches no name in {images.source}, "
            f"for example not {items[0].name!a}",
            "The pattern is searched in the name relative to the folder, `folder/file.jpg`.",
        )
    notes = images.notes
    if len(unmatched):
        example = f"for example {items[int(unmatched[0])].name!a}"
        notes = (*notes, f"{len(unmatched)} images do not match label_pattern, {example}")
    skipped = label_items(images.skipped, find_label)
    return replace(images, items=items, skipped=skipped, notes=notes, declared_classes=())


def compile_label_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled pattern.

    Raises:
        InvalidParameterError: Not a regular expression, or it has no group `label`.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidParameterError(
            f"label_pattern={pattern} is not a regular expression: {error}", _HINT
        ) from None
    if _GROUP not in compiled.groupindex:
        raise InvalidParameterError(
            f"label_pattern={pattern} has no group (?P<{_GROUP}>...)", _HINT
        )
    return compiled


def _find_label(item: ImageItem, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(item.name)
    label = match.group(_GROUP) if match else None
    return (label or "").strip() or None
