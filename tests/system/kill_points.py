"""Kills a process at an exact moment: at the n-th write of a group of files or call of MLflow.

`kill_at` is for a process that was forked for this purpose.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import mlflow

Event = tuple[str, str]  # kind, and the path or the name of a call
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_FILE_EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate")
_CALLS = (
    "create_run",
    "update_run",
    "log_batch",
    "log_inputs",
    "log_artifact",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "create_registered_model",
    "create_model_version",
    "set_terminated",
)
_UPLOAD = (
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
)
_REGISTRATION = ("create_registered_model", "create_model_version")


def _is_final_removal(event: Event) -> bool:
    """Whether the event removes a folder of a finished run, and not a checkpoint or a sent file."""
    kind, path = event
    if "/files/" in path or "/checkpoints/" in path:
        return False
    return kind == "os.rmdir" or (kind == "os.rename" and ".trash-" in path)


GROUPS: Mapping[str, Callable[[Event], bool]] = {
    "start": lambda event: True,
    "checkpoint": lambda event: "/checkpoints/" in event[1],
    "journal": lambda event: "/journal/" in event[1],
    "upload": lambda event: "/models/" in event[1] or event[1] in _UPLOAD,
    "registration": lambda event: event[1] in _REGISTRATION,
    "end": lambda event: event[1] == "set_terminated" or _is_final_removal(event),
}


@dataclass(frozen=True, slots=True)
class KillPoint:
    """The `number`-th event of `group`, counted from 1."""

    group: str
    number: int


def kill_at(point: KillPoint, root: str) -> None:
    """Let this process kill itself at `point`; files outside `root` do not count."""
    remaining = point.number
    belongs = GROUPS[point.group]

    def count(event: Event) -> None:
        nonlocal remaining
        if belongs(event):
            remaining -= 1
            if not remaining:
                os.kill(os.getpid(), signal.SIGKILL)

    observe(count, root)


def observe(count: Callable[[Event], None], root: str) -> None:
    """Call `count` right before each write to a file below `root`, and around calls of MLflow."""

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        is_write = name == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if not is_write and name not in _FILE_EVENTS:
            return
        path = arguments[1] if name in ("os.rename", "os.link") else arguments[0]
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(root):
            count((name, os.fsdecode(path)))

    sys.addaudithook(audit)
    for name in _CALLS:
        setattr(mlflow.MlflowClient, name, _count_call(name, count))


def _count_call(name: str, count: Callable[[Event], None]) -> Callable[..., Any]:
    """Return the method `name`, with one event before it and one after it."""
    method = getattr(mlflow.MlflowClient, name)

    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        count(("call", name))
        result = method(*arguments, **options)
        count(("return", name))
        return result

    return call
