"""Shards by address: a folder, a file or a pattern, on this machine or in an object store.

fsspec does the transport. A pattern has `*`, or WebDataset's braces: `train-{0000..0063}.tar`.
"""

import glob
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trialrun.errors import InvalidDatasetError, InvalidParameterError, redact_credentials
from trialrun.extras import import_extra
from trialrun.files import FILE_SCHEME, find_file
from trialrun.images.shards.requests import (
    DEFAULT_LIMITS,
    RequestLimits,
    repeat_request,
    summarize_failure,
)

SHARD_ENDINGS = (".tar", ".parquet")

_HTTP = ("http", "https")
# Packages of fsspec's protocols, and the extras of trialrun that install them.
_BACKENDS = {
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "az")),
    **dict.fromkeys(_HTTP, ("aiohttp", "http")),
}
# What stores call a file's checksum or version, and else the time of its change; best first.
_VERSION_FIELDS = (
    *("ETag", "etag", "generation", "blob_id", "Content-MD5", "Digest"),
    *("LastModified", "Last-Modified", "last_modified", "mtime"),
)
_NUMBERED = re.compile(
    r"(?P<stem>.*)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})(?P<ending>\.(tar|parquet))",
    re.IGNORECASE | re.DOTALL,
)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_NUM_THREADS = 16  # of requests for the sizes of single files


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One shard; it has the same content while it has the same `version`.

    `version` is the store's ETag or time of change, or for local files the modification time in ns
    and the size.
    """

    address: str
    num_bytes: int
    version: str


def list_shards(address: str, limits: RequestLimits = DEFAULT_LIMITS) -> list[ShardFile]:
    """Return the shards at `address`, sorted by address; none if it names other files.

    Of a folder they are those in it, or else those in its sub-folder `data`. A folder has to have
    all shards of a set whose names are numbered as in train-00000-of-00004.parquet.

    Raises:
        InvalidDatasetError: A single shard or one of a numbered set does not exist.
        InvalidParameterError: The package for this kind of address is not installed.
        StorageError: The store does not answer.
    """
    path = find_local_path(address)
    has_that_name = path is not None and path.exists()
    addresses = [address] if has_that_name else expand_braces(address)
    if len(addresses) == 1:
        return _list_address(addresses[0], limits)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = list(pool.map(partial(_list_address, limits=limits), addresses))
    return sorted((shard for shards in found for shard in shards), key=lambda s: s.address)


def expand_braces(address: str) -> list[str]:
    """Return the addresses that WebDataset's braces abbreviate: `{00..63}` or `{a,b}`."""
    match = _BRACES.search(address)
    if match is None:
        return [address]
    first, last, choices = match.groups()
    if choices is None:
        numbers = range(int(first), int(last) + 1)
        texts = [f"{number:0{len(first)}d}" for number in numbers]
    else:
        texts = choices.split(",")
    heads = [address[: match.start()] + text + address[match.end() :] for text in texts]
    return [expanded for head in heads for expanded in expand_braces(head)]


def find_local_path(address: str) -> Path | None:
    """Return the path of an address on this machine; None if it is in a store."""
    if address.startswith(FILE_SCHEME):
        return find_file(address)
    return None if "://" in address else Path(address).expanduser()


def read_shard(address: str, limits: RequestLimits = DEFAULT_LIMITS) -> ShardFile:
    """Return the present size and version of a shard.

    Raises:
        InvalidDatasetError: It does not exist.
        StorageError: The store does not answer.
    """
    if (path := find_local_path(address)) is not None:
        return _describe_local(path, address)
    store, path_in_store = open_store(address, limits)
    info = repeat_request(partial(store.info, path_in_store), address, limits)
    return _describe(info, address)


def open_store(address: str, limits: RequestLimits) -> tuple[Any, str]:
    """Return fsspec's file system for a remote address, and the path in it.

    Its own retries are off where that is possible: retries are counted here.

    Raises:
        InvalidParameterError: The package for this kind of address is not installed.
    """
    import fsspec

    protocol = address.partition("://")[0]
    if protocol in _BACKENDS:
        package, extra = _BACKENDS[protocol]
        import_extra(package, extra, needed_by=f"data at {protocol}://")

    def connect() -> tuple[Any, str]:
        try:
            found: tuple[Any, str] = fsspec.url_to_fs(address, **_choose_options(protocol, limits))
        except (ImportError, ValueError) as error:
            raise InvalidParameterError(
                f"data at {protocol}:// cannot be read: {summarize_failure(error)}",
                "Use s3://, gs://, az://, https:// or a path.",
            ) from error
        return found

    store, path = repeat_request(connect, address, limits)
    if protocol in ("s3", "s3a"):
        store.retries = 1
    return store, path


def _choose_options(protocol: str, limits: RequestLimits) -> dict[str, Any]:
    """Return fsspec's options: time limits, and listings that are never out of date."""
    if protocol in ("s3", "s3a"):
        config = {
            "connect_timeout": limits.connect_seconds,
            "read_timeout": limits.silence_seconds,
            "retries": {"max_attempts": 0},
        }
        return {"config_kwargs": config, "use_listings_cache": False}
    if protocol in ("az", "abfs", "abfss"):
        connect, silence = round(limits.connect_seconds), round(limits.silence_seconds)
        timeouts = {"connection_timeout": connect, "read_timeout": silence}
        return {**timeouts, "use_listings_cache": False}
    if protocol in ("gs", "gcs", *_HTTP):
        import aiohttp  # which gcsfs uses too

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=limits.connect_seconds, sock_read=limits.silence_seconds
        )
        if protocol in _HTTP:
            return {"client_kwargs": {"timeout": timeout}}
        return {"requests_timeout": timeout, "use_listings_cache": False}
    return {}


def _list_address(address: str, limits: RequestLimits) -> list[ShardFile]:
    path = find_local_path(address)
    shards = _list_local(path, address) if path is not None else _list_remote(address, limits)
    return sorted(shards, key=lambda shard: shard.address)


def _list_local(path: Path, address: str) -> list[ShardFile]:
    if glob.has_magic(str(path)) and not path.exists():
        paths = [Path(name) for name in glob.glob(str(path))]  # noqa: PTH207 - any root
    elif path.is_dir():
        paths = [*path.iterdir()]
        if not any(map(_is_shard, map(str, paths))) and (path / "data").is_dir():
            paths = [*(path / "data").iterdir()]
        _check_complete((p.name for p in paths), address)
    elif _is_shard(address):
        return [_describe_local(path, address)]
    else:
        return []
    return [_describe_local(p, str(p)) for p in paths if _is_shard(str(p)) and not p.is_dir()]


def _list_remote(address: str, limits: RequestLimits) -> list[ShardFile]:
    if _is_shard(address) and not glob.has_magic(address.partition("?")[0]):
        return [read_shard(address, limits)]
    if address.partition("://")[0] in _HTTP:  # has no listings that can be relied on
        return []
    store, path = open_store(address, limits)
    if glob.has_magic(path):
        list_files = partial(store.glob, path, detail=True)
        infos = list(repeat_request(list_files, address, limits).values())
    else:
        infos = _list_folder(store, path, address, limits)
        if not any(_is_shard(info["name"]) for info in infos):
            infos = _list_folder(store, f"{path.rstrip('/')}/data", address, limits)
        _check_complete((info["name"].rpartition("/")[2] for info in infos), address)
    return [
        _describe(info, store.unstrip_protocol(info["name"]))
        for info in infos
        if info["type"] == "file" and _is_shard(info["name"])
    ]


def _list_folder(
    store: Any, path: str, address: str, limits: RequestLimits
) -> list[dict[str, Any]]:
    """Return fsspec's description of each file in a folder; none without such a folder."""

    def list_files() -> list[dict[str, Any]]:
        try:
            return list(store.ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    return repeat_request(list_files, address, limits)


def _check_complete(names: Iterable[str], address: str) -> None:
    """Raise if a shard is missing of a set whose names in a folder count its shards."""
    found: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for match in map(_NUMBERED.fullmatch, names):
        if match is not None:
            found[match.group("stem", "total", "ending")].add(int(match["number"]))
    for (stem, total, ending), numbers in found.items():
        num_shards, first = int(total), 1 if int(total) in numbers else 0
        if num_missing := num_shards - len(numbers):
            expected = range(first, first + num_shards)
            example = next(number for number in expected if number not in numbers)
            shown = redact_credentials(address)
            raise InvalidDatasetError(
                f"{shown} lacks {num_missing} of {num_shards} shards, such as "
                f"{stem}-{example:0{len(total)}d}-of-{total}{ending}",
                "Download or write them; to use what is there, give a pattern such as "
                f"'{shown.rstrip('/')}/{stem}-*'.",
            )


def _is_shard(address: str) -> bool:
    path = urlsplit(address).path if "://" in address else address
    return path.lower().endswith(SHARD_ENDINGS)


def _describe(info: dict[str, Any], address: str) -> ShardFile:
    size = info.get("size")
    if size is None:
        raise InvalidDatasetError(
            f"the server of {redact_credentials(address)} does not report the size of the file",
            "Download it, and give its path.",
        )
    version = next((str(info[name]) for name in _VERSION_FIELDS if info.get(name)), str(size))
    return ShardFile(address, int(size), version)


def _describe_local(path: Path, address: str) -> ShardFile:
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidDatasetError(
            f"{address} cannot be read: {error.strerror or error}",
            "Check that it exists, and its permissions.",
        ) from error
    return ShardFile(address, status.st_size, f"{status.st_mtime_ns}-{status.st_size}")
