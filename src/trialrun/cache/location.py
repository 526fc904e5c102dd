"""Location and size limit of the cache folder, and its sub-folders."""

import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from trialrun.errors import InvalidParameterError, StorageError

_CACHE_VARIABLE = "TRIALRUN_CACHE"
_CACHE_LIMIT_VARIABLE = "TRIALRUN_CACHE_GB"
_DEFAULT_CACHE_GB = 50.0

_GB = 10**9


def cache_folder() -> Path:
    """Return `$TRIALRUN_CACHE`, else the user's cache folder, else a temporary folder.

    The temporary folder is used without a home folder, and if the user's cache is not writable.
    """
    if path := os.environ.get(_CACHE_VARIABLE):
        return Path(path).expanduser()
    folder = _find_user_cache()
    if folder is not None and _can_be_written(folder):
        return folder
    return Path(tempfile.gettempdir()) / "trialrun-cache"


def check_cache() -> None:
    """Check that the cache can be written, or has decoded images to read.

    Raises:
        StorageError: Neither.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        with suppress(OSError):
            if any(decoded_folder().iterdir()):
                return
        raise StorageError(
            f"the cache folder {folder} cannot be written: {error.strerror or error}",
            f"Set {_CACHE_VARIABLE} to a folder that can be written.",
        ) from error


def _find_user_cache() -> Path | None:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "trialrun"
    try:
        return Path.home() / ".cache" / "trialrun"
    except RuntimeError:  # no home folder
        return None


def _can_be_written(folder: Path) -> bool:
    """Whether `folder`, or the first folder above it that exists, is writable."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    return os.access(existing, os.W_OK)


def cache_limit_bytes() -> int:
    """Return the size limit of the cache: `$TRIALRUN_CACHE_GB` in 10^9 bytes, by default 50.

    Raises:
        InvalidParameterError: The variable is not a number, or negative.
    """
    text = os.environ.get(_CACHE_LIMIT_VARIABLE) or str(_DEFAULT_CACHE_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < math.inf:
        raise InvalidParameterError(
            f"{_CACHE_LIMIT_VARIABLE}={text} is not a size in gigabytes",
            "Give a number such as 20; 0 caches no decoded images.",
        )
    return int(gigabytes * _GB)


def decoded_folder() -> Path:
    """Return the folder of decoded images, one sub-folder per dataset."""
    return cache_folder() / "packs"


def scans_folder(cache: Path | None = None) -> Path:
    """Return the folder of file scans and indexes, below `cache` or the usual cache folder."""
    return (cache or cache_folder()) / "ledgers"


def archives_folder(cache: Path) -> Path:
    """Return the folder of unpacked archives below `cache`."""
    return cache / "archives"


def downloads_folder(cache: Path) -> Path:
    """Return the folder of downloaded datasets below `cache`, one sub-folder per address."""
    return cache / "downloads"


def shards_folder(cache: Path) -> Path:
    """Return the folder of downloaded shards below `cache`, one sub-folder per shard."""
    return cache / "shards"


def features_folder(cache: Path) -> Path:
    """Return the folder of features of frozen backbones below `cache`."""
    return cache / "features"


def digests_folder(cache: Path) -> Path:
    """Return the folder of the sha256 digests of archives below `cache`."""
    return cache / "digests"
