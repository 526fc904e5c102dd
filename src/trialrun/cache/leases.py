"""Locks and leases of cache entries.

One process at a time creates or deletes an entry: it holds the lock beside the entry. A process
that uses an entry holds a lease on it, a locked file of its own in `<entry>.users`, until it
releases the lease or ends; eviction skips leased entries. The operating system releases the lock of
a process that died, so a stale lease is recognised by its lock being free.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from trialrun.files import lock_path, translate_storage_errors

LEASES_SUFFIX = ".users"

_leases: dict[Path, FileLock] = {}  # released when the process ends


@contextmanager
def lock_entry(entry: Path) -> Iterator[None]:
    """Hold the lock of `entry`, so that no other process creates, opens or deletes it.

    Raises:
        OSError: The cache cannot be written.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_path(entry)):
        yield


@contextmanager
def lock_or_report(entry: Path, *, waiting: str, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `entry`; report `waiting` first if another process holds it.

    Raises:
        StorageError: The cache cannot be written.
    """
    with translate_storage_errors(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path(entry))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(waiting)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def acquire_lease(entry: Path) -> None:
    """Protect `entry` from eviction while this process lives; requires the entry's lock.

    Raises:
        OSError: The cache cannot be written.
    """
    if entry not in _leases or not Path(_leases[entry].lock_file).exists():
        _leases[entry] = _create_lease(entry)


def hold_lease(entry: Path) -> Callable[[], None]:
    """Protect `entry` from eviction until the returned function is called or this process ends.

    Requires the entry's lock.

    Raises:
        OSError: The cache cannot be written.
    """
    return partial(_release, _create_lease(entry), os.getpid())


def _create_lease(entry: Path) -> FileLock:
    leases = _leases_folder(entry)
    leases.mkdir(exist_ok=True)
    with suppress(OSError):  # the leases of another user may not be readable
        is_leased(entry)  # removes stale leases
    lease = FileLock(leases / f"{os.getpid()}-{uuid.uuid4().hex}", thread_local=False)
    lease.acquire()
    while not Path(lease.lock_file).exists():  # `is_leased` took it for a stale one
        lease.release()
        lease.acquire()
    return lease


def _release(lease: FileLock, owner: int) -> None:
    """Release a lease; a forked process shares its lock with the owner and must not."""
    if os.getpid() == owner:
        with suppress(OSError):
            Path(lease.lock_file).unlink(missing_ok=True)
        lease.release()


def is_leased(entry: Path) -> bool:
    """Whether a live process uses `entry`. Removes stale leases."""
    leases, has_lease = _leases_folder(entry), False
    for path in list(leases.iterdir()) if leases.is_dir() else ():
        try:
            with FileLock(path).acquire(timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            has_lease = True
    return has_lease


def remove_leases(entry: Path) -> None:
    """Delete the folder of leases of a deleted entry; requires the entry's lock."""
    shutil.rmtree(_leases_folder(entry), ignore_errors=True)


def sweep_leases(folder: Path) -> None:
    """Delete the leases of entries in `folder` that no longer exist and that no process uses."""
    for leases in folder.glob(f"*{LEASES_SUFFIX}"):
        entry = leases.with_suffix("")
        with suppress(OSError, Timeout), FileLock(lock_path(entry)).acquire(timeout=0):
            if not entry.exists() and not is_leased(entry):
                remove_leases(entry)


def _leases_folder(entry: Path) -> Path:
    return entry.with_name(entry.name + LEASES_SUFFIX)
