"""Recursive listing of the image files in a folder.

The listing stays inside the folder, reads every folder once even if links form a loop, and never
opens a file.
"""

import heapq
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_READABLE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm "
    ".tga .ico .jp2 .j2k .avif .pcx .sgi .qoi .heic .heif .hif .dcm .dicom".split()
)
# Image formats that the decoder rejects with a reason; listed so that they are reported.
_UNSUPPORTED_SUFFIXES = frozenset(".svg .eps .ps .psd .wmf .emf .raw .dng".split())
_IMAGE_SUFFIXES = _READABLE_SUFFIXES | _UNSUPPORTED_SUFFIXES

_SYSTEM_NAMES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN"})

# Whether the folder is a link, its name below the root, its path. Folders are visited in the order
# of these tuples: real folders before links, so that images are listed under a real folder's name.
_Folder = tuple[bool, str, str]


@dataclass(slots=True)
class FolderListing:
    """Sorted names of the images and folders below a folder (with `/`), and counts of the rest.

    `skipped` are names of images that are not listed, because they are not files in the folder.
    """

    images: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def notes(self) -> tuple[str, ...]:
        """Describe the ignored entries, one note per kind."""
        return tuple(f"{count} {kind}" for kind, count in sorted(self.ignored.items()))


def is_system_name(name: str) -> bool:
    """Whether a name is hidden or belongs to an operating system's or a tool's own files."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a name has the suffix of an image format."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES  # noqa: PTH122 - 200,000 names


def walk_folder(root: Path) -> FolderListing:
    """List every image below `root`; links are followed only if they stay inside it.

    Raises:
        OSError: `root` cannot be listed.
    """
    listing = FolderListing()
    real_root = os.path.realpath(root)
    visited = {_identify_folder(real_root)}
    pending = _list_folder(real_root, "", real_root, listing)
    heapq.heapify(pending)
    while pending:
        folder = heapq.heappop(pending)
        for sub_folder in _visit_folder(folder, real_root, visited, listing):
            heapq.heappush(pending, sub_folder)
    listing.images.sort()
    listing.skipped.sort()
    listing.folders.sort()
    return listing


def _visit_folder(
    folder: _Folder, root: str, visited: set[tuple[int, int]], listing: FolderListing
) -> Sequence[_Folder]:
    """List a folder unless it was visited before or is not readable; return its sub-folders."""
    _, name, path = folder
    if (identity := _identify_folder(path)) in visited:
        is_parent = path.startswith(os.path.realpath(path) + "/")
        listing.ignored[f"links {'back ' * is_parent}to a folder already read (not followed)"] += 1
        return ()
    visited.add(identity)
    listing.folders.append(name)
    try:
        return _list_folder(path, name + "/", root, listing)
    except PermissionError:
        listing.ignored["folders without read permission (skipped)"] += 1
        return ()


def _list_folder(path: str, prefix: str, root: str, listing: FolderListing) -> list[_Folder]:
    """Add a folder's images to `listing`; return its sub-folders."""
    folders = []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            if entry.is_symlink() and not _is_inside(entry.path, root):
                listing.ignored["links that lead out of the folder or nowhere (not followed)"] += 1
                _add_skipped(listing, prefix + entry.name)
            elif entry.is_dir():
                folders.append((entry.is_symlink(), prefix + entry.name, entry.path))
            elif not entry.is_file():
                listing.ignored["pipes, sockets or devices (skipped)"] += 1
                _add_skipped(listing, prefix + entry.name)
            elif is_image_name(entry.name):
                listing.images.append(prefix + entry.name)
            else:
                listing.ignored["files that are not images (ignored)"] += 1
    return folders


def _add_skipped(listing: FolderListing, name: str) -> None:
    if is_image_name(name):
        listing.skipped.append(name)


def _identify_folder(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - an entry's own stat has no inode on every platform
    return status.st_dev, status.st_ino


def _is_inside(path: str, root: str) -> bool:
    target = os.path.realpath(path)
    return os.path.exists(target) and os.path.commonpath([target, root]) == root  # noqa: PTH110
