"""Recursive listing of the image files in a folder.

The listing stays inside the folder unless links are to be followed, reads every folder once even if
links form a loop, and never opens a file.
"""

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trialrun.images.notes import LeftOut

_OUTSIDE_LINKS = "links that lead out of the folder (not followed; follow_links=true follows them)"
_BROKEN_LINKS = "links that lead nowhere (not followed)"
_NO_IMAGES = "files without an image's ending (ignored)"

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
    `outside_links` are names of links that lead out of the folder and were not followed;
    `linked_folders` are those of them that lead to folders.
    """

    images: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    outside_links: list[str] = field(default_factory=list)
    linked_folders: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def notes(self) -> tuple[str, ...]:
        """Describe the entries that were left out, one note per kind."""
        return self.left_out.notes()


def is_system_name(name: str) -> bool:
    """Whether a name is hidden or belongs to an operating system's or a tool's own files."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a name has the suffix of an image format."""
    return os.path.splitext(name)[1].lower() in _IMAGE_SUFFIXES  # noqa: PTH122 - 200,000 names


@dataclass(frozen=True, slots=True)
class _Walk:
    """The real path of the root, whether links out of it are followed, and what was found so far.

    `visited` are the folders that were read.
    """

    root: str
    follow_links: bool
    listing: FolderListing
    visited: set[tuple[int, int]] = field(default_factory=set)


def walk_folder(root: Path, *, follow_links: bool = False) -> FolderListing:
    """List every image below `root`; links out of it are followed only with `follow_links`.

    Raises:
        OSError: `root` cannot be listed.
    """
    listing = FolderListing()
    walk = _Walk(os.path.realpath(root), follow_links, listing)
    walk.visited.add(_identify_folder(walk.root))
    pending = _list_folder(walk.root, "", walk)
    heapq.heapify(pending)
    while pending:
        folder = heapq.heappop(pending)
        for sub_folder in _visit_folder(folder, walk):
            heapq.heappush(pending, sub_folder)
    for names in (listing.images, listing.skipped, listing.folders, listing.outside_links):
        names.sort()
    return listing


def _visit_folder(folder: _Folder, walk: _Walk) -> Sequence[_Folder]:
    """List a folder unless it was visited before or is not readable; return its sub-folders."""
    is_link, name, path = folder
    left_out = walk.listing.left_out
    if is_link and _contains_itself(path):
        left_out.add("links back to a folder that contains them (not followed)", name)
        return ()
    if (identity := _identify_folder(path)) in walk.visited:
        left_out.add("links to a folder already read (not followed)", name)
        return ()
    walk.visited.add(identity)
    walk.listing.folders.append(name)
    try:
        return _list_folder(path, name + "/", walk)
    except PermissionError:
        left_out.add("folders without read permission (skipped)", name)
        return ()


def _list_folder(path: str, prefix: str, walk: _Walk) -> list[_Folder]:
    """Add a folder's images to the listing; return its sub-folders."""
    listing, folders = walk.listing, []
    with os.scandir(path) as entries:
        for entry in entries:
            if is_system_name(entry.name):
                continue
            name = prefix + entry.name
            if entry.is_symlink() and not _can_follow(entry.path, walk):
                _add_link(listing, entry, name)
            elif entry.is_dir():
                folders.append((entry.is_symlink(), name, entry.path))
            elif not entry.is_file():
                listing.left_out.add("pipes, sockets or devices (skipped)", name)
                _add_skipped(listing, name)
            elif is_image_name(entry.name):
                listing.images.append(name)
            else:
                listing.left_out.add(_NO_IMAGES, name)
    return folders


def _add_link(listing: FolderListing, entry: "os.DirEntry[str]", name: str) -> None:
    """Record a link that is not followed."""
    _add_skipped(listing, name)
    if not os.path.exists(entry.path):  # noqa: PTH110
        listing.left_out.add(_BROKEN_LINKS, name)
        return
    listing.left_out.add(_OUTSIDE_LINKS, name)
    listing.outside_links.append(name)
    if entry.is_dir():
        listing.linked_folders.append(name)


def _add_skipped(listing: FolderListing, name: str) -> None:
    if is_image_name(name):
        listing.skipped.append(name)


def _identify_folder(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - an entry's own stat has no inode on every platform
    return status.st_dev, status.st_ino


def _contains_itself(link: str) -> bool:
    """Whether a folder's path is a link to a folder that the link is in."""
    parent = os.path.realpath(os.path.dirname(link))  # noqa: PTH120
    return (parent + "/").startswith(os.path.realpath(link).rstrip("/") + "/")


def _can_follow(path: str, walk: _Walk) -> bool:
    """Whether a link leads to something that exists and, by default, is inside the root."""
    target = os.path.realpath(path)
    if not os.path.exists(target):  # noqa: PTH110
        return False
    return walk.follow_links or os.path.commonpath([target, walk.root]) == walk.root
