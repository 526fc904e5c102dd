"""Reader of class folders: an image's label is the name of its top-level folder.

Images in deeper folders belong to the same class. Images beside the class folders have no label.
"""

from pathlib import Path

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.scanning.walk import walk_folder

LIST_SUFFIXES: tuple[str, ...] = ()


def can_read(folder: Path) -> bool:
    """Return True for any folder."""
    return folder.is_dir()


def read_images(
    folder: Path,
    source: str,
    group_column: str | None = None,
    *,
    config: DataConfig = DEFAULT_DATA_CONFIG,
) -> ImageSet:
    """Read the images below `folder`, labelled by their top-level folder.

    Raises:
        InvalidParameterError: A column is given, but folders have no columns.
    """
    for name, value, instead in (
        ("group_column", group_column, "Set group_pattern instead."),
        ("label_column", config.label_column, "Set label_pattern instead."),
        ("file_column", config.file_column, "Name its table metadata.csv, .jsonl or .parquet."),
    ):
        if value is not None:
            raise InvalidParameterError(f"{name}={value}: {source} has no columns", instead)
    listing = walk_folder(folder)
    classes = tuple(name for name in listing.folders if "/" not in name)
    items = tuple(ImageItem(name, _find_label(name)) for name in listing.images)
    skipped = tuple(ImageItem(name, _find_label(name)) for name in listing.skipped)
    num_nested = sum(name.count("/") > 1 for name in listing.images)
    notes = list(listing.notes())
    if num_nested:
        notes.append(f"{num_nested} images in deeper folders belong to their top folder's class")
    return ImageSet(source, folder.resolve(), items, classes, tuple(notes), skipped)


def _find_label(name: str) -> str | None:
    label, slash, _ = name.partition("/")
    return label if slash else None
