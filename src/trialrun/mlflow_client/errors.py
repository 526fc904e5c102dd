"""Errors of MLflow, its databases, the network and the disk as errors for the user."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from trialrun.errors import StorageError, TrackingError, redact_credentials
from trialrun.files import as_storage_error

# Modules that MLflow imports, and their packages where the names differ.
_PACKAGES = {
    "botocore": "boto3",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
_CHECK_SERVER = "Check MLFLOW_TRACKING_URI and that its server is up."
# Patterns in the messages of MLflow and its databases, and hints for the user.
_REMEDIES = (
    (
        r"attempt to write a readonly database|unable to open database file",
        "Make the database file and its folder writable.",
    ),
    (
        r"database is locked",
        "Another process has locked the database: stop it, or use an MLflow server.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of the server's authority.",
    ),
    (
        r"file is not a database|database disk image is malformed",
        "Set MLFLOW_TRACKING_URI to another file, or restore this one from a backup.",
    ),
    (
        r"read-only transaction",
        "The database is read-only: use its primary server, and a user who may write.",
    ),
    (
        r'database "[^"]*" does not exist',
        "Create the database, or correct its name in MLFLOW_TRACKING_URI.",
    ),
    (
        r"password authentication failed|no password supplied|role \"[^\"]*\" does not exist",
        "Correct the user and the password in MLFLOW_TRACKING_URI.",
    ),
    (
        r"out-of-date database schema",
        "Upgrade the database: `mlflow db upgrade URI`.",
    ),
    (
        r"filesystem tracking backend",
        "Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db: MLflow no longer writes file stores.",
    ),
    (
        r"Not a proper runs:/ URI",
        "Write runs:/RUN_ID/model.",
    ),
    (
        r"Logged model with ID",
        "Name a version: models:/NAME/1 or models:/NAME@champion.",
    ),
    (
        r"\bnot found\b|does not exist|Invalid value .* for parameter 'run_id'",
        "`mlflow ui` lists runs and models; MLFLOW_TRACKING_URI sets the store that is searched.",
    ),
    (
        r"The run \w+ must be in the 'active' state",
        "The run was deleted: restore it with `mlflow runs restore --run-id ID`.",
    ),
    (
        r"StringDataRightTruncation|Data too long for column",
        "Use a shorter name or value: the database limits its length.",
    ),
    (
        r"error code 401\b|UNAUTHENTICATED|not authenticated",
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    ),
    (
        r"error code 403\b|PERMISSION_DENIED",
        "Use a user with this right, or ask the server's administrator.",
    ),
)


@contextmanager
def translate_tracking_errors(failure: str) -> Iterator[None]:
    """Translate errors of MLflow, its database, the network and the disk.

    `failure` says what failed, for example "the run cannot be opened".

    Raises:
        StorageError: The disk is full, or a file cannot be read or written.
        TrackingError: Any other error.
    """
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (
        MlflowException,
        sqlalchemy.exc.SQLAlchemyError,
        requests.RequestException,
        sqlite3.Error,
    ) as error:
        reason = _find_reason(error)
        if "disk is full" in reason:  # SQLite's message
            raise StorageError(
                f"{failure}: {reason}", "Free some space for the database."
            ) from error
        raise TrackingError(f"{failure}: {reason}", suggest_remedy(str(error))) from error
    except ConnectionError as error:
        raise TrackingError(
            f"{failure}: {_find_reason(error)}", suggest_remedy(str(error))
        ) from error
    except ImportError as error:
        raise TrackingError(f"{failure}: {_find_reason(error)}", suggest_package(error)) from error
    except OSError as error:  # without a server, artifacts are local files
        raise as_storage_error(failure, error) from error


def _find_reason(error: Exception) -> str:
    """Return the line of an error with its cause; SQLAlchemy may put another line first."""
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result")]
    return redact_credentials((lines or [type(error).__name__])[0])


def suggest_remedy(text: str, default: str = _CHECK_SERVER) -> str:
    """Return a hint for an error message of MLflow or its database."""
    remedies = (remedy for pattern, remedy in _REMEDIES if re.search(pattern, text))
    return next(remedies, default)


def suggest_package(error: ImportError) -> str:
    """Return a hint that names the package of a missing module."""
    module = (error.name or "that is missing").partition(".")[0]
    return f"Install the package {_PACKAGES.get(module, module)}: the URI of the store needs it."
