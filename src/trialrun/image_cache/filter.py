"""Removal of undecodable images from a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet, make_printable
from trialrun.images.decoding.file_io import OUTSIDE_REASON

MAX_UNREADABLE_FRACTION = 0.1  # a larger share suggests a wrong folder


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that is left out, and the reason."""

    name: str
    reason: str


def list_skipped(images: ImageSet, reasons: Sequence[str]) -> list[SkippedImage]:
    """List the images left out; `reasons` has one text per image, empty if it is usable."""
    return [
        SkippedImage(make_printable(item.name), reason)
        for item, reason in zip(images.items, reasons, strict=True)
        if reason
    ]


def select_usable(images: ImageSet, reasons: Sequence[str], *, strict: bool) -> ImageSet:
    """Return the images that could be decoded; `reasons` as for `list_skipped`.

    Raises:
        InvalidDatasetError: More than a tenth of the images cannot be read, or any if `strict`, or
            a class has no readable image.
    """
    skipped = list_skipped(images, reasons)
    if not skipped:
        return images
    first = f"{skipped[0].name}: {skipped[0].reason}"
    count = f"{len(skipped)} of {len(images)} images in {images.source} cannot be read ({first})"
    if strict or len(skipped) > MAX_UNREADABLE_FRACTION * len(images):
        hint = "Remove or replace them; `trialrun data check` lists them all"
        hint += ", and strict=false skips a few." if strict else "."
        if any(image.reason == OUTSIDE_REASON for image in skipped):
            hint = f"Set follow_links=true if you trust what the links lead to. {hint}"
        raise InvalidDatasetError(count, hint)
    usable = images.subset(row for row, reason in enumerate(reasons) if not reason)
    if lost := set(images.classes) - set(usable.classes):
        classes = ", ".join(map(make_printable, sorted(lost)))
        raise InvalidDatasetError(
            f"{count}, and none of the images of {classes} can be read", "Replace them."
        )
    return usable
