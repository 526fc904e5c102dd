"""Groups of images, of one patient or one scene for example, that a split keeps together."""

import re
from dataclasses import replace

from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageSet
from trialrun.images.items import iterate_names, set_groups


def group_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    """Set each image's group to what `pattern` finds in its name.

    The group is the pattern's first capture group if it has one, else the whole match. An image
    without a match forms a group of its own.

    Raises:
        InvalidParameterError: Not a regular expression, or it matches no name.
    """
    compiled = _compile_pattern(pattern)
    groups = [_find_group(name, compiled) for name in iterate_names(images.items)]
    num_matched = sum(group is not None for group in groups)
    if images.items and not num_matched:
        raise InvalidParameterError(
            f"group_pattern={pattern} matches no name in {images.source}, "
            f"for example not {images.items[0].name!a}",
            "The pattern is searched in the name relative to the folder, `class/file.jpg`.",
        )
    notes = images.notes
    if num_single := len(images.items) - num_matched:
        notes = (*notes, f"{num_single} images do not match group_pattern: each is its own group")
    return replace(images, items=set_groups(images.items, groups), notes=notes)


def find_shared_groups(first: ImageSet, second: ImageSet) -> tuple[str, ...]:
    """Return the sorted groups that have images in both sets."""
    groups = [{item.group for item in images.items if item.group} for images in (first, second)]
    return tuple(sorted(groups[0] & groups[1]))


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InvalidParameterError(
            f"group_pattern={pattern} is not a regular expression: {error}",
            r"Give one such as '(patient\d+)_'.",
        ) from None


def _find_group(name: str, pattern: re.Pattern[str]) -> str | None:
    """Return the group in `name`; None if the pattern does not match or matches empty text."""
    if (match := pattern.search(name)) is None:
        return None
    group: str | None = match.group(1) if pattern.groups else match.group(0)
    return group or None
