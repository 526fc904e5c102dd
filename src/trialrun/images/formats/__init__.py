"""Readers of dataset layouts, one module per layout.

To add a layout, write a module with the members of `Reader` and add it to `READERS`. To add a file
format of metadata tables, add its parser to `metadata_table`. If that adds a list suffix, raise
`UNPACK_VERSION`.
"""

from pathlib import Path
from typing import Any, Protocol

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.images.dataset import ImageSet
from trialrun.images.formats import class_folders, image_directory, metadata_table

# Part of the cache key of unpacked archives: raise it when other files would be unpacked.
UNPACK_VERSION = 2


class Reader(Protocol):
    """Reader of one dataset layout."""

    LIST_SUFFIXES: tuple[str, ...]
    """Lower-case suffixes of the layout's list files, which are unpacked from archives."""

    def can_read(self, folder: Path) -> bool:
        """Whether `folder` has this layout, judged by file names and metadata files."""
        ...

    def read_images(
        self,
        folder: Path,
        source: str,
        group_column: str | None = None,
        *,
        config: DataConfig = DEFAULT_DATA_CONFIG,
    ) -> ImageSet:
        """Read names and labels of the images in `folder`, and their groups from `group_column`.

        `source` is the user's name of the dataset. `config` names the columns.
        """
        ...


class ListReader(Reader, Protocol):
    """Reader of a layout with an image list, which may have further columns."""

    def read_columns(self, folder: Path, config: DataConfig) -> dict[str, dict[str, Any]]:
        """Return the columns of each image besides its name and label, by image name."""
        ...


LIST_READERS: tuple[ListReader, ...] = (image_directory, metadata_table)

# The first reader that can read a folder reads it; class_folders can read every folder.
READERS: tuple[Reader, ...] = (*LIST_READERS, class_folders)

_LIST_SUFFIXES = tuple(suffix for reader in READERS for suffix in reader.LIST_SUFFIXES)


def is_list_name(name: str) -> bool:
    """Whether a file name has the suffix of some layout's list files."""
    return name.lower().endswith(_LIST_SUFFIXES)


__all__ = ["LIST_READERS", "READERS", "UNPACK_VERSION", "ListReader", "Reader", "is_list_name"]
