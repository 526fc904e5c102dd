"""MLflow's variables and log levels: set for the time of a call, then restored."""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from trialrun.mlflow_client.tracking_uri import URI_VARIABLES

_SETTINGS = {
    # With MLflow's default of seven retries a call to a dead server fails after four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # MLflow's default is 120. A server without free database connections answers after 30 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "40",
    # MLflow would print the URL of the run to stdout, with the password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LEVEL_VARIABLE = "MLFLOW_LOGGING_LEVEL"  # MLflow reads it when it is imported
_LOGGER = "mlflow"
_DATABASE_LOGGER = "mlflow.store.db.utils"  # logs a traceback before it raises
_POSTGRES_LOGGER = "psycopg"
_PIPELINE_MESSAGE = "error ignored terminating <psycopg.Pipeline"


@dataclass(frozen=True, slots=True)
class _CallerSettings:
    """The MLflow settings of the calling process, and whether it has imported MLflow."""

    environment: dict[str, str | None]
    has_imported: bool
    level: int
    database_level: int

    @classmethod
    def read(cls) -> "_CallerSettings":
        """Return the present settings."""
        return cls(
            {name: os.environ.get(name) for name in (*_SETTINGS, *URI_VARIABLES, _LEVEL_VARIABLE)},
            _LOGGER in sys.modules,
            logging.getLogger(_LOGGER).level,
            logging.getLogger(_DATABASE_LOGGER).level,
        )

    def apply_ours(self) -> None:
        """Replace the settings by those of trialrun; a log level that the caller has set stays."""
        for name, text in _SETTINGS.items():
            os.environ.setdefault(name, text)
        is_default = self.level == logging.INFO or not self.has_imported
        if is_default and self.environment[_LEVEL_VARIABLE] is None:
            os.environ[_LEVEL_VARIABLE] = "WARNING"
            logging.getLogger(_LOGGER).setLevel(logging.WARNING)
            logging.getLogger(_DATABASE_LOGGER).setLevel(logging.CRITICAL)

    def restore(self) -> None:
        """Restore the settings; MLflow, if imported since, gets its own default log level."""
        logging.getLogger(_POSTGRES_LOGGER).removeFilter(_is_no_pipeline_message)
        for name, text in self.environment.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text
        level: int | str = self.level
        if _LOGGER in sys.modules and not self.has_imported:
            level = (os.environ.get(_LEVEL_VARIABLE) or "INFO").upper()
        logging.getLogger(_LOGGER).setLevel(level)
        logging.getLogger(_DATABASE_LOGGER).setLevel(self.database_level)


_settings_lock = threading.Lock()
# One item per running call. The first one has the settings of the process.
_callers: list[_CallerSettings] = []


@contextmanager
def restore_mlflow_settings() -> Iterator[None]:
    """Silence MLflow's messages and progress bars in the block, then restore its settings.

    If several threads are in such a block, the last one to leave it restores the settings.
    """
    with _settings_lock:
        _callers.append(_callers[0] if _callers else _CallerSettings.read())
        _callers[0].apply_ours()
    try:
        yield
    finally:
        with _settings_lock:
            caller = _callers.pop()
            if not _callers:
                caller.restore()


def apply_settings() -> None:
    """Set MLflow's variables, unless the caller has set them, and silence a message of psycopg."""
    for name, text in _SETTINGS.items():
        os.environ.setdefault(name, text)
    logging.getLogger(_POSTGRES_LOGGER).addFilter(_is_no_pipeline_message)


def _is_no_pipeline_message(record: logging.LogRecord) -> bool:
    """Whether a record of psycopg's log is to be kept.

    After a failed statement, psycopg logs a second error of the statements that were sent with it.
    The first one is raised, and handled or reported.
    """
    return not record.getMessage().startswith(_PIPELINE_MESSAGE)
