"""The image files below a folder: no way out of it, no endless loop, nothing that blocks."""

import heapq
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_READABLE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm "
    ".tga .ico .jp2 .j2k .avif .pcx .sgi .qoi".split()
)
# Known to be images, and refused by the decoder with a word on why, rather than overlooked.
_UNSUPPORTED_SUFFIXES = frozenset(".svg .heic .heif .eps .ps .psd .wmf .emf .raw .dng".split())
_IMAGE_SUFFIXES = _READABLE_SUFFIXES | _UNSUPPORTED_SUFFIXES

_SYSTEM_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN"})


@dataclass(slots=True)
class FolderListing:
    """What lies below a folder: image names (with `/`, sorted), folder names, what was left out."""

    images: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def notes(self) -> tuple[str, ...]:
        """What was left out and why, in words."""
        return tuple(f"{count} {what}" for what, count in sorted(self.left_out.items()))


def is_system_name(name: str) -> bool:
    """Whether a name belongs to an operating system or a tool: hidden, or one of a known few."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a name ends like an image's."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES  # noqa: PTH122 - 200,000 names


def walk_folder(root: Path) -> FolderListing:
    """Every image below `root`, links followed only where they stay inside it.

    Raises:
        OSError: `root` cannot be listed.
    """
    found = FolderListing()
    real_root = os.path.realpath(root)
    seen = {_folder_identity(real_root)}
    ahead = _list_folder(real_root, "", real_root, found)
    heapq.heapify(ahead)
    while ahead:
        folder = heapq.heappop(ahead)
        for inner in _enter_folder(folder, real_root, seen, found):
            heapq.heappush(ahead, inner)
    found.images.sort()
    found.folders.sort()
    return found


# Whether it is a link, its name below the root, its path. In this order: real folders before links,
# each by name, so that it is never by chance that a link's name is what a folder's images go by.
_Folder = tuple[bool, str, str]


def _enter_folder(
    folder: _Folder, root: str, seen: set[tuple[int, int]], found: FolderListing
) -> Sequence[_Folder]:
    """The folders in a folder, unless it was read already or may not be."""
    _, name, path = folder
    if (identity := _folder_identity(path)) in seen:
        is_above = path.startswith(os.path.realpath(path) + "/")
        found.left_out[f"links {'back ' * is_above}to a folder already read (not followed)"] += 1
        return ()
    seen.add(identity)
    found.folders.append(name)
    try:
        return _list_folder(path, name + "/", root, found)
    except PermissionError:
        found.left_out["folders that may not be read (skipped)"] += 1
        return ()


def _list_folder(path: str, prefix: str, root: str, found: FolderListing) -> list[_Folder]:
    """Note the images in a folder; the folders in it."""
    folders = []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            if entry.is_symlink() and not _is_inside(entry.path, root):
                found.left_out["links that lead out of the folder or nowhere (not followed)"] += 1
            elif entry.is_dir():
                folders.append((entry.is_symlink(), prefix + entry.name, entry.path))
            elif not entry.is_file():
                found.left_out["pipes, sockets or devices (skipped)"] += 1
            elif is_image_name(entry.name):
                found.images.append(prefix + entry.name)
            else:
                found.left_out["files that are no images (ignored)"] += 1
    return folders


def _folder_identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - an entry's own stat has no inode on every platform
    return status.st_dev, status.st_ino


def _is_inside(path: str, root: str) -> bool:
    target = os.path.realpath(path)
    return os.path.exists(target) and os.path.commonpath([target, root]) == root  # noqa: PTH110
