"""Archives of images: unpacked once into the cache, under the hash of their bytes.

Refused as a whole: an entry that is a link or a device, leads out of the folder or is there twice;
more bytes than the disk or a sane ratio allows; anything damaged, truncated or encrypted. Only
images and image lists are unpacked.
"""

from trialrun.images.archives.place import (
    archive_in,
    archives_folder,
    digests_folder,
    unpacked,
)
from trialrun.images.archives.unpacked import (
    Unpacked,
    delete_idle,
    remove_idle,
    unpacked_archives,
)

__all__ = [
    "Unpacked",
    "archive_in",
    "archives_folder",
    "delete_idle",
    "digests_folder",
    "remove_idle",
    "unpacked",
    "unpacked_archives",
]
