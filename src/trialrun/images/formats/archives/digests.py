"""The sha256 of archives, cached by path: an unchanged archive is not hashed again."""

import json
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from trialrun.errors import StorageError
from trialrun.files import format_json, hash_file, write_atomically
from trialrun.images.decoding.file_io import read_stable_fingerprint


def find_digest(archive: Path, folder: Path) -> str:
    """Hash an archive's content, or return the hash in `folder` if its fingerprint is unchanged.

    Raises:
        OSError: The archive cannot be read.
    """
    path = archive.resolve()
    cached = folder / f"{sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    fingerprint = read_stable_fingerprint(path)
    values = {"path": quote(os.fsencode(path)), "stamp": list(fingerprint or ())}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        stored = json.loads(cached.read_text("utf-8"))
        if fingerprint is not None and stored == values | {"sha256": stored["sha256"]}:
            return str(stored["sha256"])
    digest = hash_file(archive)
    if fingerprint is not None:
        with suppress(StorageError):  # the cache may be read-only
            write_atomically(cached, format_json(values | {"sha256": digest}))
    return digest


def drop_stale_digests(folder: Path) -> None:
    """Delete the hashes of archives that no longer exist, and those of older versions."""
    for file in folder.glob("*.json"):
        with suppress(OSError):
            if not _names_existing_path(file):
                file.unlink()


def _names_existing_path(file: Path) -> bool:
    try:
        path = unquote_to_bytes(json.loads(file.read_text("utf-8"))["path"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return os.path.lexists(path)
