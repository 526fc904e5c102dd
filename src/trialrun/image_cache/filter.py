"""What is left of a set when the images that cannot be decoded are taken out."""

from collections.abc import Sequence
from dataclasses import dataclass

from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageSet, make_printable

MAX_UNREADABLE_FRACTION = 0.1  # more than this is no accident but a wrong folder


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was left out, and why."""

    name: str
    reason: str


def list_skipped(images: ImageSet, reasons: Sequence[str]) -> list[SkippedImage]:
    """The images that were left out; `reasons` holds one an image, empty where it was kept."""
    return [
        SkippedImage(make_printable(item.name), reason)
        for item, reason in zip(images.items, reasons, strict=True)
        if reason
    ]


def select_usable(images: ImageSet, reasons: Sequence[str], *, strict: bool) -> ImageSet:
    """The images that could be decoded; `reasons` as for `skipped_images`.

    Raises:
        InvalidDatasetError: More than a tenth cannot be read, or any where `strict`, or a class
            has none left.
    """
    skipped = list_skipped(images, reasons)
    if not skipped:
        return images
    first = f"{skipped[0].name}: {skipped[0].reason}"
    count = f"{len(skipped)} of {len(images)} images in {images.source} cannot be read ({first})"
    if strict or len(skipped) > MAX_UNREADABLE_FRACTION * len(images):
        raise InvalidDatasetError(
            count,
            "Remove or replace them; `trialrun data check` lists them all"
            + (", and strict=false skips a few." if strict else "."),
        )
    usable = images.subset(row for row, reason in enumerate(reasons) if not reason)
    if lost := set(images.classes) - set(usable.classes):
        raise InvalidDatasetError(
            f"{count}, none of {', '.join(map(make_printable, sorted(lost)))} can", "Replace them."
        )
    return usable
