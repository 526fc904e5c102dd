"""Processes of workers: which one claimed a trial, and whether it has ended.

A trial whose worker was killed is retried at once on the machine of the worker. Elsewhere only
missing heartbeats show that a worker is lost.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NAMESPACE = Path("/proc/self/ns/pid")  # containers that share a host name have different ones
_TOLERANCE_SECONDS = 2  # start times are computed from the clock, which may be adjusted


def describe_process() -> dict[str, Any]:
    """Return what identifies this process, as plain values."""
    import psutil

    return {
        "host": socket.gethostname(),
        "namespace": _read_namespace(),
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
    }


def has_ended(process: Mapping[str, Any] | None) -> bool:
    """Whether a process of this machine has ended; False if it is another machine's or unknown."""
    import psutil

    if not process:
        return False
    if (process["host"], process["namespace"]) != (socket.gethostname(), _read_namespace()):
        return False
    try:
        current = psutil.Process(process["pid"])
        if current.status() == psutil.STATUS_ZOMBIE:
            return True
        return bool(abs(current.create_time() - process["created"]) > _TOLERANCE_SECONDS)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _read_namespace() -> str | None:
    with suppress(OSError):
        return str(_NAMESPACE.readlink())
    return None
