"""Runs commands of trialrun in forked processes, which need not import torch and MLflow again.

Only for a program without threads: a fork copies the thread that calls it.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import torch

import trialrun.cli.commands
import trialrun.runs.api
import trialrun.runs.recovery.resume
import trialrun.runs.training.run
from trialrun.cli import run_cli


def _do_nothing() -> None:
    """Do nothing."""


def import_all() -> None:
    """Import what commands import when they are called, and MLflow's store with its tables."""
    assert trialrun.cli.commands is not None
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:///{folder}/mlflow.db"
        mlflow.MlflowClient(store, store).search_registered_models(max_results=1)


def fork_command(
    arguments: list[str],
    log: Path,
    variables: Mapping[str, str],
    prepare: Callable[[], None] = _do_nothing,
) -> int:
    """Start `trialrun ARGUMENTS` in a forked process; return its id.

    Args:
        arguments: The command line.
        log: The file to append its output to.
        variables: Environment variables.
        prepare: Called in the new process first.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(variables)
        prepare()
        code = run_cli(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
