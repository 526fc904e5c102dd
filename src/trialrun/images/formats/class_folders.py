"""One sub-folder a class: an image's label is the first folder on the way to it.

Images in deeper folders belong to that class too. Images beside the class folders have no label;
where there are no class folders at all, nothing has one.
"""

from pathlib import Path

from trialrun.errors import InvalidParameterError
from trialrun.images.dataset import ImageItem, ImageSet
from trialrun.images.scanning.walk import walk_folder


def can_read(folder: Path) -> bool:
    """Any folder can be read this way."""
    return folder.is_dir()


def read_images(folder: Path, source: str, group_column: str | None = None) -> ImageSet:
    """The images below `folder`, labelled by their first folder.

    Raises:
        InvalidParameterError: A `group_column` is asked for: folders have no columns.
    """
    if group_column is not None:
        raise InvalidParameterError(
            f"group_column={group_column}: {source} has no columns", "Set group_pattern instead."
        )
    found = walk_folder(folder)
    top = [name for name in found.folders if "/" not in name]
    items = tuple(ImageItem(name, _find_label(name)) for name in found.images)
    nested = sum(name.count("/") > 1 for name in found.images)
    notes = list(found.notes())
    if nested:
        notes.append(f"{nested} images in deeper folders belong to their top folder's class")
    return ImageSet(source, folder.resolve(), items, tuple(top), tuple(notes))


def _find_label(name: str) -> str | None:
    label, slash, _ = name.partition("/")
    return label if slash else None
