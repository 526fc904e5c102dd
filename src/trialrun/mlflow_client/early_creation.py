"""Creation of a new SQLite store by another process, while this one loads its modules.

It takes MLflow about a second (benchmarks/lifetime.py), and Python's lock lets only one thread of a
process work on it or on imports.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trialrun.images.scanning.thread_pool import count_threads
from trialrun.mlflow_client.tracking_uri import RUN_ID_VARIABLE, TRACKING_VARIABLE, find_sqlite_path

_CLIENT_MODULE = "mlflow.store.tracking.sqlalchemy_store"  # the store's client loads it
_DEFAULT_URI = "sqlite:///mlflow.db"  # MLflow's


@contextmanager
def create_store_early() -> Iterator[None]:
    """Create a missing SQLite store beside the block, which loads modules; wait at its end.

    MLflow is loaded at the end of the block. Nothing happens if the store is of another kind or
    exists, if MLflow is loaded already, or with one processor. An error is ignored:
    `connect_client` creates the store, or raises it.
    """
    if not _is_useful():
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-m", "trialrun.mlflow_client"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
            importlib.import_module(_CLIENT_MODULE)
        except BaseException:
            process.terminate()  # the database is created in one transaction
            raise


def _is_useful() -> bool:
    if "mlflow" in sys.modules or RUN_ID_VARIABLE in os.environ or count_threads() == 1:
        return False
    path = find_sqlite_path(os.environ.get(TRACKING_VARIABLE) or _DEFAULT_URI)
    return path is not None and not path.exists()
