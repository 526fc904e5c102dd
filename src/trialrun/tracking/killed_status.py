"""Keeps a run KILLED that `mlflow run` would call FAILED.

MLflow 3.17 sets a project's run to FAILED whenever its child ends with an error, whatever status
the child gave it (it compares the status's name with the statuses' numbers). So the child leaves
this small process behind, which puts KILLED back once that has happened, and ends.
"""

import os
import subprocess
import sys
import time

_PATIENCE_SECONDS = 30  # `mlflow run` has its say within a second or two of its child's end
_POLL_SECONDS = 0.2


def spawn_status_fixer(run_id: str) -> None:
    """Start the process that has the last word on a run's status."""
    command = [sys.executable, "-m", "trialrun.tracking.killed_status", run_id, str(os.getppid())]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _restore_killed_status(run_id: str, parent_pid: int) -> None:
    """Wait until `mlflow run` has called the run FAILED, or is gone without, and make it KILLED."""
    import mlflow
    import psutil

    client = mlflow.MlflowClient()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    parent_is_gone = False
    while time.monotonic() < deadline:
        if client.get_run(run_id).info.status == "FAILED":
            client.set_terminated(run_id, "KILLED")
            return
        if parent_is_gone:
            return
        parent_is_gone = not psutil.pid_exists(parent_pid)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    _restore_killed_status(sys.argv[1], int(sys.argv[2]))
