"""Reading of the members of a .zip archive."""

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits

_ENCRYPTED = 0x1


def read_zip_members(path: Path, limits: UnpackLimits) -> Iterator[ArchiveMember]:
    """Yield every file of the archive; all names and sizes are checked before the first.

    Raises:
        InvalidArchiveError: Damaged, encrypted, or an entry that is not allowed.
    """
    with limits.translate_errors(), zipfile.ZipFile(path) as archive:
        entries = [(_check_member(info, limits), info) for info in archive.infolist()]
        for name, info in entries:
            if not info.is_dir():
                with archive.open(info) as content:
                    yield ArchiveMember(name, info.file_size, content)


def _check_member(info: zipfile.ZipInfo, limits: UnpackLimits) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise limits.rejection(f"has an entry that is a link or a device: {info.filename!a}")
    if info.flag_bits & _ENCRYPTED:
        raise limits.rejection("is encrypted")
    # The stored name is checked: `filename` ends at a NUL and has converted separators.
    name = limits.count_entry(info.orig_filename, is_folder=info.is_dir())
    limits.count_bytes(info.file_size)
    return name
