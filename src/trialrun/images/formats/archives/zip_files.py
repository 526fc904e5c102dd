"""The entries of a .zip, by the standard library's reader."""

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits

_ENCRYPTED = 0x1


def read_zip_members(path: Path, allowance: UnpackLimits) -> Iterator[ArchiveMember]:
    """Every file of the archive; all names and sizes are judged before the first is given.

    Raises:
        InvalidArchiveError: Damaged, encrypted, or an entry that must not be.
    """
    with allowance.reading(), zipfile.ZipFile(path) as archive:
        entries = [(_check_member(info, allowance), info) for info in archive.infolist()]
        for name, info in entries:
            if not info.is_dir():
                with archive.open(info) as content:
                    yield ArchiveMember(name, info.file_size, content)


def _check_member(info: zipfile.ZipInfo, allowance: UnpackLimits) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise allowance.refused(f"has an entry that is a link or a device: {info.filename!a}")
    if info.flag_bits & _ENCRYPTED:
        raise allowance.refused("is encrypted")
    # `filename` ends at a NUL and has its separators turned; the name as stored is judged.
    name = allowance.count_entry(info.orig_filename, is_folder=info.is_dir())
    allowance.count_bytes(info.file_size)
    return name
