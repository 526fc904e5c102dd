"""A reader for each layout an image set can have.

A reader is a module with `reads(folder) -> bool` and `read(folder, source, group_column) ->
ImageSet`. To add a layout, write its module and name it in `READERS`: the first that recognises a
folder reads it.
"""

from pathlib import Path
from typing import Protocol

from trialrun.images.dataset import ImageSet
from trialrun.images.formats import class_folders, image_directory, metadata_table


class Reader(Protocol):
    """How one layout becomes an image set."""

    def can_read(self, folder: Path) -> bool:
        """Whether `folder` has this layout, judged by names alone."""
        ...

    def read_images(self, folder: Path, source: str, group_column: str | None = None) -> ImageSet:
        """The images of `folder`; `source` is what the user called it.

        The column of that name, where a layout has columns, says which images belong together.
        """
        ...


READERS: tuple[Reader, ...] = (
    image_directory,
    metadata_table,
    class_folders,  # which take what is left
)

__all__ = ["READERS", "Reader"]
