"""Roots with the training, validation and test set, and not classes, as top folders."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trialrun.config.data import CLASSES_LAYOUT, SPLITS_LAYOUT
from trialrun.errors import InvalidDatasetError
from trialrun.images.dataset import ImageItem, make_printable
from trialrun.images.formats import LIST_READERS
from trialrun.images.scanning.walk import is_image_name, is_system_name

TRAIN, VALID, TEST = "train", "valid", "test"
_ROLES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALID,
    "valid": VALID,
    "validation": VALID,
    "test": TEST,
    "testing": TEST,
}
_NAME = re.compile(r"([a-z]+)[-_ ]?\d*")  # train, Train, train2017, train_1
_MAX_WRAPPERS = 8  # folders around the parts, each alone in its folder


@dataclass(frozen=True, slots=True)
class SplitFolders:
    """The folders of the parts by role, relative to the root (with `/`).

    `ignored` are the other folders with images.
    """

    names: Mapping[str, str]
    ignored: tuple[str, ...] = ()


def find_split_folders(root: Path, source: str, layout: str) -> SplitFolders | None:
    """Return the parts of a root with split folders; None if its top folders are classes.

    A root is split if it has a training folder and no other folders than those of the parts.
    `layout` is the setting data_layout.

    Raises:
        InvalidDatasetError: Both readings are possible, or the layout `splits` does not fit.
        OSError: A folder cannot be listed.
    """
    if layout == CLASSES_LAYOUT or not root.is_dir():
        return None
    found = _find_parts(root, accepts_lists=layout == SPLITS_LAYOUT)
    if found is None:
        if layout == SPLITS_LAYOUT:
            raise InvalidDatasetError(
                f"data_layout={layout}, but {source} has no folders train, val or test",
                "Leave data_layout at auto, or give another folder.",
            )
        return None
    prefix, by_role, others = found
    ignored = tuple(name for name in others if has_image(root / prefix / name))
    _check_roles(by_role, source)
    if layout != SPLITS_LAYOUT and (ignored or TRAIN not in by_role):
        raise _ambiguity_error(source, prefix, by_role, ignored)
    return SplitFolders({role: prefix + names[0] for role, names in by_role.items()}, ignored)


def check_one_part(items: Iterable[ImageItem], source: str) -> None:
    """Check that a table beside split folders does not list the images of several parts.

    Raises:
        InvalidDatasetError: It does.
    """
    tops = dict.fromkeys(item.name.partition("/")[0] for item in items if "/" in item.name)
    parts = {role: name for name in tops if (role := find_role(name))}
    if TRAIN in parts and len(parts) > 1:
        raise InvalidDatasetError(
            f"the table of {source} lists images in {_join(parts.values())}: as one set, or as "
            "several?",
            "Put a table into each of these folders, or set data_layout=classes to read all rows "
            "as one set.",
        )


def _find_parts(
    root: Path, *, accepts_lists: bool
) -> tuple[str, dict[str, list[str]], list[str]] | None:
    """Return the folders' prefix, the names by role and the other folders; None without roles.

    Single folders in the way are descended into.
    """
    prefix = ""
    for _ in range(_MAX_WRAPPERS):
        if not accepts_lists and any(reader.can_read(root / prefix) for reader in LIST_READERS):
            return None
        folders, has_image = _list_folder(root / prefix)
        by_role: dict[str, list[str]] = defaultdict(list)
        for name in folders:
            if role := find_role(name):
                by_role[role].append(name)
        if by_role:
            return prefix, by_role, [name for name in folders if not find_role(name)]
        if len(folders) != 1 or has_image:
            return None
        prefix = f"{prefix}{folders[0]}/"
    return None


def find_role(name: str) -> str | None:
    """Return the part that a folder's name stands for: `TRAIN`, `VALID` or `TEST`."""
    match = _NAME.fullmatch(name.lower())
    return _ROLES.get(match.group(1)) if match else None


def _list_folder(folder: Path) -> tuple[list[str], bool]:
    """Return the sorted names of the folders in `folder`, and whether it has an image file."""
    folders, has_image = [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif not has_image:
                has_image = is_image_name(entry.name)
    return sorted(folders), has_image


def has_image(folder: Path) -> bool:
    """Whether an image is in the folder or below it; stops at the first."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_system_name(name)]
        if any(is_image_name(name) and not is_system_name(name) for name in files):
            return True
    return False


def _check_roles(by_role: Mapping[str, Sequence[str]], source: str) -> None:
    for names in by_role.values():
        if len(names) > 1:
            raise InvalidDatasetError(
                f"{source} has {_join(names)}: which of them is meant is not known",
                "Give the folders as train_data and valid_data, or set data_layout=classes if they "
                "are classes.",
            )


def _ambiguity_error(
    source: str, prefix: str, by_role: Mapping[str, Sequence[str]], ignored: Sequence[str]
) -> InvalidDatasetError:
    parts = [name for names in by_role.values() for name in names]
    beside = f" beside {_join(ignored)}" if ignored else " and no training folder"
    part = make_printable(f"{source.rstrip('/')}/{prefix}{parts[0]}")
    return InvalidDatasetError(
        f"{source} has {_join(parts)}{beside}: its folders may be classes or parts of the data",
        f"Give one part, such as {part}; or set data_layout=classes or data_layout=splits.",
    )


def _join(names: Iterable[str]) -> str:
    shown = [make_printable(name) for name in names]
    rest = len(shown) - 5
    return ", ".join(shown[:5]) + (f" and {rest} more folders" if rest > 0 else "")
