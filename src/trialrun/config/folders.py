"""Where trialrun keeps what it can make again, and how much of it."""

import math
import os
import tempfile
from pathlib import Path

from trialrun.errors import InvalidParameterError

CACHE_VARIABLE = "TRIALRUN_CACHE"
CACHE_LIMIT_VARIABLE = "TRIALRUN_CACHE_GB"
DEFAULT_CACHE_GB = 50.0

_GB = 10**9


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


def cache_limit_bytes() -> int:
    """How large the cache may grow: `$TRIALRUN_CACHE_GB`, in 10^9 bytes, else 50.

    Raises:
        InvalidParameterError: It is no number, or negative.
    """
    text = os.environ.get(CACHE_LIMIT_VARIABLE) or str(DEFAULT_CACHE_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < math.inf:
        raise InvalidParameterError(
            f"{CACHE_LIMIT_VARIABLE}={text} is no size in gigabytes",
            "Give a number such as 20; 0 keeps no decoded images.",
        )
    return int(gigabytes * _GB)
