"""Shards on this machine: local ones in place, remote ones downloaded into a bounded folder.

A downloaded shard is a folder `<key>/<name>`, with a lock and leases beside it as other entries of
the cache have. All processes of a machine share it. A shard in use is never evicted.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from trialrun.cache.eviction import CacheEntry, evict_lru
from trialrun.cache.leases import LEASES_SUFFIX, is_leased, lock_entry
from trialrun.errors import InvalidDatasetError, StorageError, TrialrunError, redact_credentials
from trialrun.files import (
    create_directory,
    lock_path,
    sweep_drafts,
    sweep_unlocked_drafts,
    translate_storage_errors,
)
from trialrun.images.shards.downloaded import delete_if_idle, list_downloaded
from trialrun.images.shards.requests import (
    DEFAULT_LIMITS,
    RequestLimits,
    ShortAnswerError,
    repeat_request,
)
from trialrun.images.shards.storage import ShardFile, find_local_path, open_store, read_shard

_NUM_DOWNLOADS = 4  # at once, of shards that are needed soon


def _ignore_note(_text: str) -> None: ...


def _no_other_entries() -> Sequence[CacheEntry]:
    return ()


@dataclass(slots=True)
class _Lease:
    """A lock that marks an entry as in use by this process, and how often it is held."""

    lock: FileLock
    num_holders: int = 1


@dataclass(slots=True)
class ShardCache:
    """The shards of one machine below `folder`, of at most `limit_bytes`.

    `note` is called with messages for the user. `other_entries` are evicted too, by age. The counts
    are of this process.
    """

    folder: Path
    limit_bytes: int
    note: Callable[[str], None] = _ignore_note
    limits: RequestLimits = DEFAULT_LIMITS
    other_entries: Callable[[], Sequence[CacheEntry]] = _no_other_entries
    num_downloads: int = field(default=0, init=False)
    num_retries: int = field(default=0, init=False)
    _leases: dict[Path, _Lease] = field(default_factory=dict, init=False, repr=False)
    _mutex: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _ahead: "_DownloadsAhead | None" = field(default=None, init=False, repr=False)

    @contextmanager
    def hold(self, shard: ShardFile) -> Iterator[Path]:
        """Yield the path of a shard, downloaded if it is remote; it stays until the exit.

        Raises:
            InvalidDatasetError: The shard vanished, changed since it was listed, or is truncated.
            StorageError: The store does not answer, or the cache has no room.
        """
        if (path := find_local_path(shard.address)) is not None:
            _check_unchanged(shard, read_shard(shard.address))
            yield path
            return
        entry = self._choose_entry(shard)
        self._acquire(entry, shard)
        try:
            yield entry / _choose_name(shard)
        finally:
            self._release(entry)

    def prefetch(self, shards: Iterable[ShardFile]) -> None:
        """Download remote shards in the background; failures are left to `hold`."""
        missing = [
            shard
            for shard in shards
            if find_local_path(shard.address) is None and not self._choose_entry(shard).exists()
        ]
        if missing:
            self._ahead = self._ahead or _DownloadsAhead(self._fetch_quietly)
            self._ahead.add(missing)

    def _choose_entry(self, shard: ShardFile) -> Path:
        identity = f"{shard.address}\0{shard.num_bytes}\0{shard.version}"
        return self.folder / sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def _acquire(self, entry: Path, shard: ShardFile) -> None:
        if self._share_lease(entry):
            return
        with translate_storage_errors(entry), lock_entry(entry):
            if self._share_lease(entry):  # another thread was faster
                return
            self._fetch(entry, shard)
            os.utime(entry)
            lease = _acquire_lease(entry)
            with self._mutex:
                self._leases[entry] = _Lease(lease)

    def _share_lease(self, entry: Path) -> bool:
        with self._mutex:
            if entry not in self._leases:
                return False
            self._leases[entry].num_holders += 1
            return True

    def _release(self, entry: Path) -> None:
        with self._mutex:
            lease = self._leases[entry]
            lease.num_holders -= 1
            if lease.num_holders:
                return
            del self._leases[entry]
        Path(lease.lock.lock_file).unlink(missing_ok=True)
        lease.lock.release()

    def _fetch_quietly(self, shard: ShardFile) -> None:
        entry = self._choose_entry(shard)
        with suppress(TrialrunError, OSError), lock_entry(entry):
            self._fetch(entry, shard)

    def _fetch(self, entry: Path, shard: ShardFile) -> None:
        """Download a shard unless it is there; requires the entry's lock."""
        sweep_drafts(entry)
        if entry.is_dir():
            return
        reasons: list[str] = []
        with ExitStack() as stack:
            file = self._reserve_room(entry, shard, stack)
            _download(shard, file, self.limits, reasons.append)
            _check_unchanged(shard, read_shard(shard.address, self.limits))
        with self._mutex:
            self.num_downloads += 1
            self.num_retries += len(reasons)
        if reasons:
            self.note(
                f"{redact_credentials(shard.address)}: {len(reasons)} requests were repeated, the "
                f"last one because of: {reasons[-1]}"
            )

    def _reserve_room(self, entry: Path, shard: ShardFile, stack: ExitStack) -> BinaryIO:
        """Evict entries and return the draft file, whose size other processes count at once."""
        with FileLock(lock_path(self.folder / "room")):
            self._make_room(shard)
            draft = stack.enter_context(create_directory(entry, durable=False))
            file = stack.enter_context((draft / _choose_name(shard)).open("wb"))
            file.truncate(shard.num_bytes)
        return file

    def _make_room(self, shard: ShardFile) -> None:
        being_written = sweep_unlocked_drafts(self.folder)
        entries = list_downloaded(self.folder)
        is_used = [is_leased(entry.folder) for entry in entries]
        used_bytes = sum(e.num_bytes for e, used in zip(entries, is_used, strict=True) if used)
        idle = [
            CacheEntry(entry.num_bytes, entry.last_used, partial(delete_if_idle, entry.folder))
            for entry, used in zip(entries, is_used, strict=True)
            if not used
        ]
        limit = max(self.limit_bytes - being_written - used_bytes, 0)
        evictable = [*idle, *self.other_entries()]
        if not evict_lru(self.folder, evictable, shard.num_bytes, limit_bytes=limit):
            raise StorageError(
                f"{redact_credentials(shard.address)} of {shard.num_bytes / 1e9:.3g} GB does not "
                f"fit into {self.folder} (limit {self.limit_bytes / 1e9:g} GB, "
                f"{(used_bytes + being_written) / 1e9:.3g} GB of shards in use)",
                "Give the cache more room (TRIALRUN_CACHE_GB), or write smaller shards.",
            )


def _acquire_lease(entry: Path) -> FileLock:
    """Return a held lock that marks `entry` as in use; requires the entry's lock."""
    leases = entry.with_name(entry.name + LEASES_SUFFIX)
    leases.mkdir(exist_ok=True)
    # Any thread may release it.
    lease = FileLock(leases / f"{os.getpid()}-{uuid.uuid4().hex}", thread_local=False)
    lease.acquire()
    return lease


def _choose_name(shard: ShardFile) -> str:
    return PurePosixPath(unquote(urlsplit(shard.address).path)).name or "shard"


def _check_unchanged(listed: ShardFile, found: ShardFile) -> None:
    """Raise if a shard is not the one that was listed: offsets of images would be wrong."""
    if found != listed:
        raise InvalidDatasetError(
            f"{redact_credentials(listed.address)} changed after it was listed",
            "Do not change shards while a run reads them; start again to read the new ones.",
        )


def _download(
    shard: ShardFile, file: BinaryIO, limits: RequestLimits, on_retry: Callable[[str], None]
) -> None:
    """Write a remote shard to `file`, by ranges that are repeated one by one."""
    store, path = open_store(shard.address, limits)
    start = 0
    while start < shard.num_bytes:
        stop = min(start + limits.range_bytes, shard.num_bytes)

        def read_range(start: int = start, stop: int = stop) -> bytes:
            data: bytes = store.cat_file(path, start=start, end=stop)
            is_whole = start == 0 and len(data) == shard.num_bytes  # the server ignores ranges
            if len(data) != stop - start and not is_whole:
                raise ShortAnswerError(f"{len(data):,} of {stop - start:,} bytes came")
            return data

        data = repeat_request(read_range, shard.address, limits, on_retry)
        file.write(data)
        start += len(data)


class _DownloadsAhead:
    """Daemon threads that download shards in the order in which they were added, each once."""

    def __init__(self, download: Callable[[ShardFile], None]) -> None:
        self._download = download
        self._waiting: dict[ShardFile, None] = {}  # in order
        self._running: set[ShardFile] = set()
        self._changed = threading.Condition()
        for _ in range(_NUM_DOWNLOADS):
            threading.Thread(target=self._work, daemon=True).start()

    def add(self, shards: Sequence[ShardFile]) -> None:
        """Queue shards; those queued before and not asked for again are dropped."""
        with self._changed:
            self._waiting = {shard: None for shard in shards if shard not in self._running}
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                shard = next(iter(self._waiting))
                del self._waiting[shard]
                self._running.add(shard)
            self._download(shard)
            with self._changed:
                self._running.discard(shard)
