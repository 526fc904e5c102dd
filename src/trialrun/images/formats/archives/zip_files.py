"""Reading of the members of a .zip archive."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from trialrun.config import AUTO_TEXT
from trialrun.images.formats.archives.entries import ArchiveMember, UnpackLimits

_ENCRYPTED, _UTF_8_NAME = 0x1, 0x800
_UNICODE_PATH = 0x7075  # extra field with the name in UTF-8, which Info-ZIP and WinZip write


def read_zip_members(
    path: Path, limits: UnpackLimits, *, encoding: str = AUTO_TEXT
) -> Iterator[ArchiveMember]:
    """Yield every file of the archive; all names and sizes are checked before the first.

    Raises:
        InvalidArchiveError: Damaged, encrypted, or an entry that is not allowed.
    """
    with limits.translate_errors(), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        entries = [
            (_check_member(info, name, limits), info)
            for info, name in zip(infos, _decode_names(infos, limits, encoding), strict=True)
        ]
        for name, info in entries:
            if name is not None:
                with archive.open(info) as content:
                    yield ArchiveMember(name, info.file_size, content)


def _decode_names(
    infos: Sequence[zipfile.ZipInfo], limits: UnpackLimits, encoding: str
) -> list[str]:
    """Return the names; those without the UTF-8 flag are decoded together."""
    declared = [_find_declared_name(info) for info in infos]
    raw = {
        position: info.orig_filename.encode("cp437")  # zipfile has decoded it as cp437
        for position, (info, name) in enumerate(zip(infos, declared, strict=True))
        if name is None
    }
    decode = limits.choose_decoder(list(raw.values()), encoding)
    return [
        decode(raw[position]) if name is None else name for position, name in enumerate(declared)
    ]


def _find_declared_name(info: zipfile.ZipInfo) -> str | None:
    # The stored name is returned: `filename` ends at a NUL and has converted separators.
    if info.flag_bits & _UTF_8_NAME:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")
    extra = info.extra
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if tag == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            (checksum,) = struct.unpack_from("<I", field, 1)
            if checksum == zlib.crc32(raw):  # else the name was changed afterwards
                return field[5:].decode("utf-8")
    return None


def _check_member(info: zipfile.ZipInfo, name: str, limits: UnpackLimits) -> str | None:
    """Return the normalized name of a file, None for a folder."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise limits.rejection(f"has an entry that is a link or a device: {info.filename!a}")
    if info.flag_bits & _ENCRYPTED:
        raise limits.rejection("is encrypted")
    is_folder = name.endswith(("/", "\\"))
    path = limits.count_entry(name, is_folder=is_folder)
    limits.count_bytes(info.file_size)
    return None if is_folder else path
