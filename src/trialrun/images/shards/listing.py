"""The shards of a source (the argument DATA): recognized by listing, and sorted into parts."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from trialrun.config.data import CLASSES_LAYOUT, DataConfig
from trialrun.errors import (
    InvalidDatasetError,
    InvalidParameterError,
    StorageError,
)
from trialrun.images.formats import LIST_READERS
from trialrun.images.formats.split_folders import (
    TEST,
    TRAIN,
    VALID,
    SplitFolders,
    find_role,
    has_image,
)
from trialrun.images.notes import format_examples
from trialrun.images.shards.parquet_shards import has_images
from trialrun.images.shards.storage import (
    ShardFile,
    expand_braces,
    find_local_path,
    list_shards,
    read_shard,
)
from trialrun.images.shards.tar_shards import has_labels

INDEX_NAME = "index.parquet"

_REMOTE = frozenset("s3 s3a gs gcs az abfs abfss http https memory".split())
_HTTP = ("http://", "https://")
_TAR, _PARQUET = ".tar", ".parquet"
_PATTERN = re.compile(r"[*?]|\{[^{}]*(?:\.\.|,)[^{}]*\}")
# train-00000-of-00004, train-00000-of-00004-0123456789abcdef, train_000
_NUMBER = re.compile(r"[-_.]?\d+(?:-of-\d+)?(?:-[0-9a-f]{16})?$")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True, slots=True)
class ShardListing:
    """The shards at an address, in order; `has_index` if `trialrun data shard` wrote them."""

    address: str
    shards: tuple[ShardFile, ...]
    has_index: bool = False

    def find_parts(self, layout: str) -> "dict[str, ShardListing]":
        """Return the parts by role, if the names of the shards say that they are several sets.

        Raises:
            InvalidDatasetError: Only some of the names do.
        """
        by_role: dict[str | None, list[ShardFile]] = defaultdict(list)
        for shard in self.shards:
            by_role[find_role(find_part_name(shard))].append(shard)
        if layout == CLASSES_LAYOUT or len(by_role) == 1:
            return {}
        if unnamed := by_role.pop(None, None):
            raise InvalidDatasetError(
                f"{self.address} has shards of {', '.join(map(str, by_role))} beside "
                f"{get_name(unnamed[0])}: which set are they of?",
                "Give a pattern such as train-*.tar, or set data_layout=classes to read all.",
            )
        return {
            role: replace(self, shards=tuple(by_role[role]))
            for role in (TRAIN, VALID, TEST)
            if role in by_role
        }


def name_parts(parts: Mapping[str, ShardListing]) -> SplitFolders:
    """Return the names of parts, as of split folders."""
    return SplitFolders({role: find_part_name(part.shards[0]) for role, part in parts.items()})


def find_shards(source: str, path: Path | None, config: DataConfig) -> ShardListing | None:
    """Return the shards that `source` names, also as a part of them (DATA/test); None without.

    `path` is the location on this machine if it differs from `source`.

    Raises:
        InvalidDatasetError: Shards are compressed, or links that are not to be followed.
        InvalidParameterError: The package for this kind of address is not installed.
        StorageError: The store does not answer.
    """
    address = str(path or source)
    listing = _list_source(address, config)
    if listing is not None or _is_pattern(address):
        return listing
    parent, name = posixpath.split(address.rstrip("/"))
    role = find_role(name)
    if role is None or not parent or parent.endswith(":/") or _exists_here(address):
        return None
    try:
        whole = _list_source(parent, config)
    except (InvalidDatasetError, StorageError):  # the parent need not be readable
        return None
    return whole and whole.find_parts(config.data_layout).get(role)


def get_name(shard: ShardFile) -> str:
    """Return the file name of a shard."""
    is_url = "://" in shard.address
    return posixpath.basename(urlsplit(shard.address).path if is_url else shard.address)


def find_part_name(shard: ShardFile) -> str:
    """Return the word before the number in a shard's name, such as `train`; else the whole stem."""
    stem = posixpath.splitext(get_name(shard))[0]
    words = re.split(r"[-_.]", _NUMBER.sub("", stem))
    return words[-1] or stem


def _exists_here(address: str) -> bool:
    return "://" not in address and Path(address).exists()


def _list_source(address: str, config: DataConfig) -> ShardListing | None:
    try:
        local = find_local_path(address)
    except RuntimeError:  # ~name of an unknown user
        return None
    if local is None:
        return _list_remote(address)
    if _is_pattern(address) and not local.exists():
        return _make_listing(address, list_shards(address))
    if local.is_file():
        return _list_file(local, address, config)
    if not local.is_dir() or any(reader.can_read(local) for reader in LIST_READERS):
        return None
    return _list_folder(local, address, config)


def _list_folder(folder: Path, address: str, config: DataConfig) -> ShardListing | None:
    listing = _make_listing(address, list_shards(address))
    if listing is None:
        _check_not_compressed(folder, address)
        return None
    if has_image(folder):
        _check_not_both(listing)
        return None
    tar = next((s.address for s in listing.shards if s.address.lower().endswith(_TAR)), None)
    if tar is not None and not _is_named_as_shards(listing) and not has_labels(Path(tar), config):
        return None
    if not config.follow_links:
        _check_links(folder, listing)
    return listing


def _list_file(path: Path, address: str, config: DataConfig) -> ShardListing | None:
    suffix = path.suffix.lower()
    if suffix == _PARQUET or (suffix == _TAR and has_labels(path, config)):
        return _make_listing(address, list_shards(address))
    return None


def _list_remote(address: str) -> ShardListing | None:
    if address.partition("://")[0] not in _REMOTE:
        return None
    is_pattern = _is_pattern(address)
    is_file = urlsplit(address).path.lower().endswith((_TAR, _PARQUET))
    if not is_pattern and (address.startswith(_HTTP) or is_file):
        if not urlsplit(address).path.lower().endswith(_PARQUET):
            return None  # a single tar is an archive until it was downloaded
        is_pattern = True
    try:
        listing = _make_listing(address, list_shards(address))
    except InvalidParameterError:
        if is_pattern:
            raise
        return None  # MLflow may be able to download it
    if listing is None or is_pattern or _is_named_as_shards(listing):
        return listing
    return None


def _make_listing(address: str, found: Sequence[ShardFile]) -> ShardListing | None:
    shards = tuple(shard for shard in found if get_name(shard) != INDEX_NAME)
    if not shards:
        return None
    return ShardListing(address, shards, has_index=len(shards) < len(found))


def find_index_file(listing: ShardListing) -> ShardFile | None:
    """Return the index beside the shards; None if there is none."""
    head, _, query = listing.shards[0].address.partition("?")
    if query:  # a signature is valid for one file only
        return None
    address = f"{posixpath.dirname(head)}/{INDEX_NAME}"
    try:
        return read_shard(address)
    except InvalidDatasetError:
        return None


def _is_named_as_shards(listing: ShardListing) -> bool:
    if listing.has_index:
        return True
    stems = [posixpath.splitext(get_name(shard)) for shard in listing.shards]
    return all(_NUMBER.search(stem) or suffix.lower() == _PARQUET for stem, suffix in stems)


def _is_pattern(address: str) -> bool:
    return len(expand_braces(address)) > 1 or _PATTERN.search(address.partition("?")[0]) is not None


def _check_not_compressed(folder: Path, address: str) -> None:
    names = sorted(
        path.name for path in folder.iterdir() if path.name.lower().endswith(_COMPRESSED)
    )
    if len(names) > 1 and not has_image(folder):
        raise InvalidDatasetError(
            f"{address} has {len(names)} compressed archives ({format_examples(names)}) and no "
            "images",
            "Unpack shards with gunzip: images are read at their places in plain .tar files. Give "
            "an archive of a dataset itself.",
        )


def _check_not_both(listing: ShardListing) -> None:
    """Check that Parquet files beside image files have no images themselves."""
    first = listing.shards[0].address
    if first.lower().endswith(_PARQUET) and has_images(Path(first)):
        raise InvalidDatasetError(
            f"{listing.address} has {len(listing.shards)} Parquet files with images, and image "
            "files too: which of them are the data?",
            f"Give a pattern such as '{posixpath.dirname(first)}/*.parquet', or the folder of the "
            "files.",
        )


def _check_links(folder: Path, listing: ShardListing) -> None:
    root = folder.resolve()
    outside = [s for s in listing.shards if not Path(s.address).resolve().is_relative_to(root)]
    if outside:
        raise InvalidDatasetError(
            f"{len(outside)} shards in {listing.address} are links that lead out of the folder, "
            f"for example {format_examples(map(get_name, outside))}",
            "Set follow_links=true if you trust what they lead to.",
        )
