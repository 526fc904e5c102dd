"""Features of images on disk: one file per backbone and images, verified when it is opened.

A file is an array in numpy's format, (N, F) float32, followed by the xxh3 checksum of everything
before it. It is written once and never changed. Tensor letters: N images, F features.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from trialrun.cache.eviction import CacheEntry, evict_lru
from trialrun.cache.leases import lock_entry
from trialrun.cache.location import cache_folder, cache_limit_bytes, features_folder
from trialrun.errors import StorageError
from trialrun.files import replace_durably, sweep_drafts, touch_file
from trialrun.image_cache.entries import list_evictable_files

NAME_DIGITS = 32  # of a file's name

_CHECKSUM_BYTES = 8
_READ_BYTES = 1 << 20
_FILES = "[!.]" * NAME_DIGITS

Features = NDArray[np.float32]


def load_or_compute_features(
    name: str,
    compute: Callable[[], Features | None],
    list_entries: Callable[[], list[CacheEntry]],
) -> Features | None:
    """Return the (N, F) features in the cache under `name`, of 32 digits, mapped into memory.

    If they are missing or damaged, one process computes and stores them while others wait.
    `list_entries` lists the entries of the whole cache, which are evicted for them. Features that
    cannot be stored are returned all the same; None from `compute` is returned and not stored.
    """
    path = features_folder(cache_folder()) / name
    if (features := read_features(path)) is not None:
        return features
    with _lock_if_possible(path) as is_locked:
        features = read_features(path)  # another process may have written it
        if features is None:
            features = compute()
            if features is not None and is_locked:
                _write_if_fits(path, features, list_entries)
        return features


def read_features(path: Path) -> Features | None:
    """Map the features in a file into memory; None if it is missing or damaged."""
    try:
        if not _is_intact(path):
            return None
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if features.dtype != np.float32 or features.ndim != 2:
        return None
    touch_file(path)
    return np.asarray(features)


def list_feature_files() -> list[CacheEntry]:
    """List the files of features in the cache as entries to evict.

    A deleted file stays readable to the processes that have it mapped.
    """
    return list_evictable_files(features_folder(cache_folder()), _FILES)


@contextmanager
def _lock_if_possible(path: Path) -> Iterator[bool]:
    """Hold the lock of `path`; yield False instead if the cache cannot be written."""
    lock = lock_entry(path)
    try:
        lock.__enter__()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        lock.__exit__(None, None, None)


def _is_intact(path: Path) -> bool:
    digest = xxh3_64()
    with path.open("rb") as file:
        remaining = path.stat().st_size - _CHECKSUM_BYTES
        while remaining > 0 and (block := file.read(min(_READ_BYTES, remaining))):
            digest.update(block)
            remaining -= len(block)
        return file.read() == digest.digest()


def _write_if_fits(
    path: Path, features: Features, list_entries: Callable[[], list[CacheEntry]]
) -> None:
    """Write the file if there is room for it; requires the lock of `path`."""
    with suppress(StorageError, OSError):
        sweep_drafts(path)
        limit_bytes = cache_limit_bytes()
        if evict_lru(path.parent, list_entries(), features.nbytes, limit_bytes=limit_bytes):
            with replace_durably(path) as draft:
                _write_draft(draft, features)


def _write_draft(draft: Path, features: Features) -> None:
    with draft.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(features), allow_pickle=False)
    digest = xxh3_64()
    with draft.open("r+b") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
        file.write(digest.digest())
