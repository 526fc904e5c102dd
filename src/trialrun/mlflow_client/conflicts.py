"""Retries of writes that conflict with those of another process.

MLflow looks a row up and inserts it if it is missing. Two processes that do so at the same time
both insert it, and the database refuses the second one. A server that many processes call at once
may also run out of database connections.
"""

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_TIMEOUT_SECONDS = 180.0  # a server without free connections answers after 30 s
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
# In the messages of SQLite, PostgreSQL, MySQL and MLflow; a server repeats those of its database.
_CONFLICT = re.compile(
    r"UNIQUE constraint failed|UniqueViolation|Duplicate entry"
    r"|DeadlockDetected|Deadlock found|Model Version creation error|QueuePool limit"
)


def retry_conflicts(call: Callable[[], Result]) -> Result:
    """Call `call` until it does not conflict with another process; return its result.

    The waits between the calls are random, so that the processes do not meet again. `call` must
    write everything or nothing.

    Raises:
        MlflowException: The call failed for another reason, or conflicted for three minutes.
    """
    from mlflow.exceptions import MlflowException

    deadline = time.monotonic() + _TIMEOUT_SECONDS
    longest_seconds = _FIRST_WAIT_SECONDS
    while True:
        try:
            return call()
        except MlflowException as error:
            if not _CONFLICT.search(str(error)) or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0, longest_seconds))
        longest_seconds = min(2 * longest_seconds, _LONGEST_WAIT_SECONDS)
