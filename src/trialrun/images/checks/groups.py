"""Which images belong together (one patient, one scene) and must not be parted by a split."""

import re
from dataclasses import replace

from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageSet


def _check_pattern(pattern: str) -> None:
    """Whether `pattern` is a regular expression.

    Raises:
        InvalidParameterError: It is none.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise InvalidParameterError(
            f"group_pattern={pattern} is no regular expression: {error}",
            r"Give one such as '(patient\d+)_'.",
        ) from None


def group_by_pattern(images: ImageSet, pattern: str) -> ImageSet:
    """Each image in the group that `pattern` finds in its name: the first group, else the match.

    An image whose name does not match stands for itself.

    Raises:
        InvalidParameterError: It is no regular expression, or matches no name at all.
    """
    _check_pattern(pattern)
    compiled = re.compile(pattern)
    items = [replace(item, group=_find_group(item.name, compiled)) for item in images.items]
    num_matched = sum(item.group is not None for item in items)
    if images.items and not num_matched:
        raise InvalidParameterError(
            f"group_pattern={pattern} matches none of the names in {images.source} "
            f"(such as {images.items[0].name!a})",
            "It is searched for in the name below the folder, `class/file.jpg`.",
        )
    notes = images.notes
    if rest := len(images.items) - num_matched:
        notes = (*notes, f"{rest} images do not match group_pattern and stand for themselves")
    return replace(images, items=tuple(items), notes=notes)


def _find_group(name: str, pattern: re.Pattern[str]) -> str | None:
    """None where the pattern matches nothing, or no character: that is nothing to share."""
    if (found := pattern.search(name)) is None:
        return None
    named: str | None = found.group(1) if pattern.groups else found.group(0)
    return named or None


def find_shared_groups(first: ImageSet, second: ImageSet) -> tuple[str, ...]:
    """Groups with images in both sets, sorted."""
    groups = [{item.group for item in images.items if item.group} for images in (first, second)]
    return tuple(sorted(groups[0] & groups[1]))
