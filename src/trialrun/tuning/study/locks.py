"""Locks shared by all processes and machines that use one storage; they end with their process.

SQLite: a lock file beside the database. PostgreSQL: an advisory lock, which ends with its
connection as well, so another process may take it after a connection loss.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class LockHandle(Protocol):
    """A lock that is held for long."""

    def is_held(self) -> bool:
        """Whether the lock is still held, or was taken again after a loss."""


@contextmanager
def acquire_file_lock(
    database: Path, name: str, *, seconds: float = -1
) -> Iterator[LockHandle | None]:
    """Wait up to `seconds` (negative: forever) for a file lock and hold it; else yield None."""
    path = Path(f"{database}.{_lock_key(name):x}.lock")
    lock = FileLock(path)
    with suppress(Timeout):
        lock.acquire(timeout=seconds)
    if not lock.is_locked:
        yield None
        return
    try:
        yield _FileLockHandle()
    finally:
        # Before the release: a process that waits for the deleted file tries again.
        with suppress(OSError):
            path.unlink()
        lock.release()


class _FileLockHandle:
    def is_held(self) -> bool:
        """Return True: a file lock ends only with the process."""
        return True


@contextmanager
def hold_database_lock(engine: "Engine", name: str) -> Iterator[None]:
    """Wait for a PostgreSQL lock and hold it with an open transaction."""
    from sqlalchemy import text

    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})
        yield


@contextmanager
def acquire_session_lock(engine: "Engine", name: str) -> Iterator[LockHandle | None]:
    """Hold a PostgreSQL lock with a connection, for hours; yield None if another has it."""
    with engine.connect() as connection:
        handle = _SessionLockHandle(connection, _lock_key(name))
        if not handle.try_acquire():
            yield None
            return
        try:
            yield handle
        finally:
            handle.release()


class _SessionLockHandle:
    """A connection that holds a lock until the server drops the connection."""

    def __init__(self, connection: "Connection", key: int) -> None:
        self._connection, self._key = connection, key
        self._backend_pid: int | None = None  # the server process that holds the lock

    def try_acquire(self) -> bool:
        if not self._query("SELECT pg_try_advisory_lock(:key)", key=self._key):
            return False
        self._backend_pid = self._query("SELECT pg_backend_pid()")
        return True

    def is_held(self) -> bool:
        """Whether the lock is held; after a connection loss, try to take it again."""
        from sqlalchemy.exc import SQLAlchemyError

        for _ in range(2):  # after a loss the first query fails and the second reconnects
            with suppress(SQLAlchemyError):
                return (
                    self._query("SELECT pg_backend_pid()") == self._backend_pid
                    or self.try_acquire()
                )
        return False

    def release(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # after a connection loss there is nothing to release
            if self._query("SELECT pg_backend_pid()") == self._backend_pid:
                self._query("SELECT pg_advisory_unlock(:key)", key=self._key)

    def _query(self, sql: str, **values: Any) -> Any:
        from sqlalchemy import text

        # The lock belongs to the connection; the transaction ends here.
        with self._connection.begin():
            return self._connection.execute(text(sql), values).scalar()


def _lock_key(name: str) -> int:
    """Return the 63-bit key of a PostgreSQL lock."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
