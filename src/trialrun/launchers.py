"""The programs that start this process and wait for it: `mlflow run` and `torchrun`.

They may be killed without their child: the child must then notice it. A shell may be in between,
which stays alive.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_TORCH_MODULES = {"torch.distributed.run", "torch.distributed.launch"}
_NUM_OPTIONS = 4  # of `mlflow` before `run`, such as `--env-file FILE`
_parent_at_import = os.getppid()
_found: "dict[str, psutil.Process]" = {}  # by the variable that points to the launcher


def find_launchers(environment: Mapping[str, str]) -> "list[psutil.Process]":
    """Return the ancestors up to the launcher that `environment` points to, the parent first.

    The list is empty without a launcher: a process started by nohup, cron or Kubernetes may outlive
    its parent.
    """
    matchers = {name: match for name, match in _MATCHERS.items() if environment.get(name)}
    chain = _list_ancestors() if matchers else []
    length = 0
    for name, match in matchers.items():
        place = find_first(chain, match)
        if place is not None:
            _found[name] = chain[place]
            length = max(length, place + 1)
    return chain[:length]


def find_project_pid() -> int:
    """Return the pid of the `mlflow run` that `find_launchers` found, also if it has ended.

    `mlflow.projects.run` in a program of the user is not recognised: it is taken for the parent. A
    shell in between may have ended, and `mlflow run` is then not an ancestor of this process.
    """
    launcher = _found.get(_PROJECT_VARIABLE)
    return _parent_at_import if launcher is None else launcher.pid


def is_alive(process: "psutil.Process") -> bool:
    """Whether the process runs: not ended, not a zombie, and its pid not used again."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_first(
    chain: "Sequence[psutil.Process]", match: Callable[[Sequence[str]], bool]
) -> int | None:
    """Return the position of the first process with a matching command line."""
    import psutil

    for place, process in enumerate(chain):
        try:
            if match(process.cmdline()):
                return place
        except psutil.Error:  # ended, or another user's
            continue
    return None


def is_mlflow_run(arguments: Sequence[str]) -> bool:
    """Whether a command line is `mlflow run`, as a script or as `python -m mlflow run`."""
    for place, argument in enumerate(arguments[:_NUM_OPTIONS]):
        if PurePath(argument).stem == "mlflow":
            return "run" in arguments[place + 1 : place + 2 + _NUM_OPTIONS]
    return False


def is_torchrun(arguments: Sequence[str]) -> bool:
    """Whether a command line is `torchrun` or `python -m torch.distributed.run`."""
    return not _TORCH_MODULES.isdisjoint(arguments) or any(
        PurePath(argument).stem == "torchrun" for argument in arguments[:_NUM_OPTIONS]
    )


# The variables that a launcher sets for its children.
_PROJECT_VARIABLE = "MLFLOW_RUN_ID"
_MATCHERS = {_PROJECT_VARIABLE: is_mlflow_run, "TORCHELASTIC_RUN_ID": is_torchrun}


def _list_ancestors() -> "list[psutil.Process]":
    import psutil

    try:
        return psutil.Process().parents()
    except psutil.Error:
        return []
