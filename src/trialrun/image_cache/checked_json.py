"""JSON files with a checksum, which reveals a damaged or incomplete file."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from trialrun.files import write_atomically


def write_checked_json(path: Path, values: dict[str, Any]) -> None:
    """Write `values` atomically.

    Raises:
        StorageError: The disk is full or the folder is not writable.
    """
    content = json.dumps(values)
    write_atomically(path, f"{sha256(content.encode()).hexdigest()}\n{content}\n")


def read_checked_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_checked_json` wrote; None if missing or damaged."""
    try:
        checksum, content, _ = path.read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return None
    if sha256(content.encode()).hexdigest() != checksum:
        return None
    values: dict[str, Any] = json.loads(content)
    return values
