"""URLs of study storages: schemes, validation and password redaction. Nothing here connects."""

import re
from pathlib import Path

from trialrun.config import as_text
from trialrun.errors import InvalidParameterError, TrialrunError

SQLITE_PREFIX = "sqlite:///"
_STORAGE_SCHEMES = (SQLITE_PREFIX, "postgresql://", "postgresql+psycopg://", "postgres://")

_SCHEME = re.compile(r"[\w+.-]+:/+")
_PASSWORDS = re.compile(r"((?:ssl)?password\s*=\s*)[^&\s]*", re.IGNORECASE)  # libpq's parameters


def find_sqlite_path(url: str) -> Path | None:
    """Return the database file of a SQLite URL; None for other URLs."""
    return Path(url.removeprefix(SQLITE_PREFIX)) if url.startswith(SQLITE_PREFIX) else None


def with_driver(url: str) -> str:
    """Return the URL with the psycopg driver named: SQLAlchemy's default depends on its version."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def redact_password(url: str | None) -> str:
    """Return a storage URL, valid or not, with its passwords replaced by `***`."""
    text = as_text(url)
    if text.startswith(SQLITE_PREFIX):  # has no password; a folder's name may hold an @
        return text
    credentials, at, rest = text.rpartition("@")  # the last @: a password may hold one by mistake
    redacted = f"{_redact_credentials(credentials)}@{rest}" if at else text
    return _PASSWORDS.sub(r"\1***", redacted)


def _redact_credentials(text: str) -> str:
    """Redact the part of a URL before the @; all of it after the scheme if `://` is malformed."""
    scheme = _SCHEME.match(text)
    start = scheme.end() if scheme else 0
    user, colon, _password = text[start:].partition(":")
    if colon:
        return f"{text[:start]}{user}:***"
    return text if scheme is None or "://" in text else f"{text[:start]}***"


def check_storage_url(url: str) -> list[TrialrunError]:
    """Return the errors of a storage URL, without connecting to it."""
    if not url.startswith(_STORAGE_SCHEMES):
        return [
            InvalidParameterError(
                f"storage={redact_password(url)} is not a supported storage URL",
                "Give sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
            )
        ]
    if url.startswith(SQLITE_PREFIX) or _is_server_url(url):
        return []
    return [
        InvalidParameterError(
            f"storage={redact_password(url)} is not a valid server URL",
            "Give postgresql://USER@HOST:PORT/DATABASE; write an @ in a password as %40.",
        )
    ]


def _is_server_url(url: str) -> bool:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        host = make_url(url).host
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        return False
    return "@" not in (host or "")
