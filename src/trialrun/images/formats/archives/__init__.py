"""Archives of images: unpacked once into the cache, under the hash of their bytes.

Refused as a whole: an entry that is a link or a device, leads out of the folder or is there twice;
more bytes than the disk or a sane ratio allows; anything damaged, truncated or encrypted. Only
images and image lists are unpacked.
"""

from trialrun.images.formats.archives.extraction import find_archive, unpack_archive
from trialrun.images.formats.archives.store import (
    UnpackedArchive,
    delete_if_idle,
    list_unpacked_archives,
    try_delete_if_idle,
)

__all__ = [
    "UnpackedArchive",
    "delete_if_idle",
    "find_archive",
    "list_unpacked_archives",
    "try_delete_if_idle",
    "unpack_archive",
]
