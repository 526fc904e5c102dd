"""The index of a tar archive: decoded names of its members, and the members that links point to."""

import posixpath
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trialrun.images.dataset import leaves_root, make_printable
from trialrun.images.formats.archives.encodings import UTF_8
from trialrun.images.formats.archives.entries import UnpackLimits, is_needed
from trialrun.images.notes import LeftOut

_MAX_HOPS = 40  # of a chain of links, as in Linux


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Names of all members by their position, and names of links by the file they point to.

    `notes` describe the encoding of the names, and links that are not followed.
    """

    names: Sequence[str]
    links_to: Mapping[str, Sequence[str]]
    notes: tuple[str, ...]


def is_declared(info: tarfile.TarInfo) -> bool:
    """Whether a member's name is in a pax header, which is always UTF-8."""
    return "path" in info.pax_headers


def build_index(infos: Sequence[tarfile.TarInfo], limits: UnpackLimits, encoding: str) -> TarIndex:
    """Decode the names of all members, and resolve the links to images and image lists.

    Raises:
        InvalidArchiveError: A link leads out of the archive or nowhere, or a name is not in the
            encoding.
    """
    undeclared = [_to_bytes(info.name) for info in infos if not is_declared(info)]
    decode = limits.choose_decoder(undeclared, encoding)
    names = [info.name if is_declared(info) else decode(_to_bytes(info.name)) for info in infos]
    targets: dict[str, str] = {}
    files: set[str] = set()
    for info, name in zip(infos, names, strict=True):
        path = limits.count_entry(name, is_folder=info.isdir())
        if info.isreg():
            files.add(path)
        elif info.issym() or info.islnk():
            is_declared_link = "linkpath" in info.pax_headers
            link = info.linkname if is_declared_link else decode(_to_bytes(info.linkname))
            targets[path] = _resolve_link(path, link.replace("\\", "/"), is_hard=info.islnk())
    left_out = LeftOut()
    links_to = _find_links(targets, files, limits, left_out)
    return TarIndex(names, links_to, (*limits.encoding_notes, *left_out.notes()))


def _to_bytes(name: str) -> bytes:
    return name.encode(UTF_8, "surrogateescape")


def _resolve_link(name: str, target: str, *, is_hard: bool) -> str:
    """Return the path that a link points to; hard links name a path of the archive."""
    folder = "" if is_hard else posixpath.dirname(name)
    return posixpath.normpath(posixpath.join(folder, target))


def _find_links(
    targets: Mapping[str, str], files: set[str], limits: UnpackLimits, left_out: LeftOut
) -> Mapping[str, Sequence[str]]:
    links_to: dict[str, list[str]] = defaultdict(list)
    for name in targets:
        target = _follow(name, targets)
        if target in files:
            links_to[target].append(name)
        elif limits.is_folder(target) and not leaves_root(target):
            left_out.add("links to folders of the archive (not followed)", name)
        elif leaves_root(target) or is_needed(name):
            raise limits.rejection(
                f"has a link that leads out of it or nowhere: {make_printable(name)} -> "
                f"{make_printable(target)}"
            )
        else:
            left_out.add("links that lead nowhere", name)
    return links_to


def _follow(name: str, targets: Mapping[str, str]) -> str:
    """Return the end of a chain of links; a member of the chain if it is a loop."""
    for _ in range(_MAX_HOPS):
        if name not in targets:
            break
        name = targets[name]
    return name
