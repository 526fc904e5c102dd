"""Locks between all processes of all machines on one storage, gone when their process is.

A file beside the SQLite database, an advisory lock of PostgreSQL. The latter is its connection's
too: where that is cut, the lock is lost, and somebody else may have it.
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
    """A lock that was got for long."""

    def is_held(self) -> bool:
        """Whether it is ours still, or again."""


@contextmanager
def acquire_file_lock(
    database: Path, name: str, *, seconds: float = -1
) -> Iterator[LockHandle | None]:
    """Hold a file's lock; None where somebody else has held it for `seconds`, below 0 never."""
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
        # While it is ours: who has opened it meanwhile finds it without a name, and tries again.
        with suppress(OSError):
            path.unlink()
        lock.release()


class _FileLockHandle:
    def is_held(self) -> bool:
        """Always: nothing but this process's end takes it."""
        return True


@contextmanager
def hold_database_lock(engine: "Engine", name: str) -> Iterator[None]:
    """Hold PostgreSQL's lock, waiting for it, with a transaction that stays open meanwhile."""
    from sqlalchemy import text

    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})
        yield


@contextmanager
def acquire_session_lock(engine: "Engine", name: str) -> Iterator[LockHandle | None]:
    """Hold PostgreSQL's lock for hours, with a connection; None where somebody else holds it."""
    with engine.connect() as connection:
        hold = _SessionLockHandle(connection, _lock_key(name))
        if not hold.take():
            yield None
            return
        try:
            yield hold
        finally:
            hold.release()


class _SessionLockHandle:
    """A connection and the lock it has, as long as the server knows the connection."""

    def __init__(self, connection: "Connection", key: int) -> None:
        self._connection, self._key = connection, key
        self._backend: int | None = None  # the server's process which has the lock for us

    def take(self) -> bool:
        if not self._asked("SELECT pg_try_advisory_lock(:key)", key=self._key):
            return False
        self._backend = self._asked("SELECT pg_backend_pid()")
        return True

    def is_held(self) -> bool:
        """Whether it is ours still, or again where its connection was cut and nobody came first."""
        from sqlalchemy.exc import SQLAlchemyError

        for _ in range(2):  # the first finds that it was cut, the second makes another
            with suppress(SQLAlchemyError):
                return self._asked("SELECT pg_backend_pid()") == self._backend or self.take()
        return False

    def release(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # a connection that was cut has lost it already
            if self._asked("SELECT pg_backend_pid()") == self._backend:
                self._asked("SELECT pg_advisory_unlock(:key)", key=self._key)

    def _asked(self, question: str, **values: Any) -> Any:
        from sqlalchemy import text

        with self._connection.begin():  # the lock is the connection's; no transaction stays open
            return self._connection.execute(text(question), values).scalar()


def _lock_key(name: str) -> int:
    """A name as the 63-bit number that PostgreSQL locks by."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
