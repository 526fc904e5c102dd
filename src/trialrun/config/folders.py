"""Where trialrun keeps what it can make again."""

import os
import tempfile
from pathlib import Path

CACHE_VARIABLE = "TRIALRUN_CACHE"


def cache_folder() -> Path:
    """`$TRIALRUN_CACHE`, else the user's cache folder; without a home a temporary one."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "trialrun"
    try:
        return Path.home() / ".cache" / "trialrun"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "trialrun-cache"
