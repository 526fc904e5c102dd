"""The images to score: one per row of the table, and reading of their files."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from trialrun.images import ImageItem, ImageSet
from trialrun.images.decoding.file_io import hold_items, read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing


def list_rows(images: ImageSet) -> tuple[ImageItem, ...]:
    """Return the items of the table's rows, with a number or Azure's identifier as `id`.

    Entries that the set's reader skipped are among them, without a label: reading them fails, for
    the reason that the table then contains.
    """
    items: Iterable[ImageItem] = images.items
    if images.skipped:
        skipped = (ImageItem(item.name) for item in images.skipped)
        items = sorted((*images.items, *skipped), key=lambda item: item.name)
    return tuple(
        replace(item, id=row if item.id is None else item.id, group=None)
        for row, item in enumerate(items)
    )


def read_contents(images: ImageSet) -> Iterator[bytes | None]:
    """Yield the bytes of every image file, in order; None for a file that cannot be read."""
    for item in hold_items(images, images.items):
        try:
            yield read_item(images, item).data
        except UndecodableError:
            yield None


def decode_file(images: ImageSet, preprocessing: Preprocessing, item: ImageItem) -> Tensor | str:
    """Return the (3, S, S) uint8 pixels of an image file, or the reason why they are missing."""
    try:
        return preprocessing.decode(read_item(images, item).data)
    except UndecodableError as error:
        return str(error)
