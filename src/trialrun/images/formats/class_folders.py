"""Reader of class folders: an image's label is the name of its top-level folder.

Images in deeper folders belong to the same class. Images beside the class folders have no label.
"""

from pathlib import Path

from trialrun.config.data import DEFAULT_DATA_CONFIG, DataConfig
from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.formats.hub_cache import check_no_hub_cache
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

    A link at the top that leads to a folder outside is a class without images unless
    `config.follow_links`.

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
    check_no_hub_cache(folder, source)
    listing = walk_folder(folder, follow_links=config.follow_links)
    folders = sorted((*listing.folders, *listing.linked_folders))
    classes = tuple(name for name in folders if "/" not in name)
    items = tuple(ImageItem(name, _find_label(name)) for name in listing.images)
    skipped = tuple(ImageItem(name, _find_label(name)) for name in listing.skipped)
    num_nested = sum(name.count("/") > 1 for name in listing.images)
    notes = list(listing.notes())
    if num_nested:
        notes.append(f"{num_nested} images in deeper folders belong to their top folder's class")
    return ImageSet(
        source,
        folder.resolve(),
        items,
        classes,
        tuple(notes),
        skipped,
        outside_links=tuple(listing.outside_links),
        follow_links=config.follow_links,
    )


def _find_label(name: str) -> str | None:
    label, slash, _ = name.partition("/")
    return label if slash else None
