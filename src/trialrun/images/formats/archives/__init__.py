"""Archives of images, unpacked once into the cache under the hash of their content.

Only images and image lists are unpacked; notes count the rest. An archive is rejected as a whole if
it has a device, a path or link out of the folder or a duplicate name, if it is damaged, truncated
or encrypted, or if it unpacks to more bytes than the free space or the allowed ratio.
"""

from trialrun.images.formats.archives.digests import drop_stale_digests
from trialrun.images.formats.archives.extraction import find_archive, unpack_archive
from trialrun.images.formats.archives.store import (
    ArchiveContents,
    UnpackedArchive,
    delete_if_idle,
    is_archive_in_use,
    list_unpacked_archives,
    read_notes,
    try_delete_if_idle,
)

__all__ = [
    "ArchiveContents",
    "UnpackedArchive",
    "delete_if_idle",
    "drop_stale_digests",
    "find_archive",
    "is_archive_in_use",
    "list_unpacked_archives",
    "read_notes",
    "try_delete_if_idle",
    "unpack_archive",
]
