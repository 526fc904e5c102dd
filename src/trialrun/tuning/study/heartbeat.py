"""The heartbeat of a running trial: a trial without one is lost and is retried."""

import threading
from contextlib import suppress

from trialrun.tuning.study.storage import StudyStorage


class Heartbeat:
    """A context manager that records heartbeats of a trial from a thread."""

    def __init__(self, storage: StudyStorage, trial_id: int) -> None:
        self._storage, self._trial_id = storage, trial_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record_until_stopped, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _record_until_stopped(self) -> None:
        from optuna.exceptions import StorageInternalError  # wraps some of SQLAlchemy's errors
        from sqlalchemy.exc import SQLAlchemyError

        rdb = self._storage.rdb
        interval = rdb.get_heartbeat_interval()
        try:
            while not self._stop.wait(interval):
                # Training continues after a failed heartbeat: the next one may succeed.
                with suppress(SQLAlchemyError, StorageInternalError):
                    rdb.record_heartbeat(self._trial_id)
        finally:
            rdb.remove_session()
