"""Restores the status KILLED of a run that `mlflow run` overwrites with FAILED.

MLflow 3.17 sets the run of a project to FAILED whenever its child process exits with an error, even
if the child has ended the run with another status: it compares the name of the status with the
numbers of the statuses. The child therefore starts this small process, which sets KILLED again
after `mlflow run` has set FAILED, and then exits.
"""

import subprocess
import sys
import time

from trialrun.launchers import find_project_pid

_TIMEOUT_SECONDS = 30  # `mlflow run` sets the status within two seconds of its child's exit
_POLL_SECONDS = 0.2


def spawn_status_fixer(run_id: str) -> None:
    """Start the process that restores the status of a run; it ends soon after `mlflow run`."""
    pid = str(find_project_pid())
    command = [sys.executable, "-m", "trialrun.tracking.killed_status", run_id, pid]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


def _restore_killed_status(run_id: str, parent_pid: int) -> None:
    """Set KILLED once `mlflow run` has set FAILED; stop if it has exited without doing so."""
    import mlflow
    import psutil

    client = mlflow.MlflowClient()
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    parent_has_exited = False
    while time.monotonic() < deadline:
        if client.get_run(run_id).info.status == "FAILED":
            client.set_terminated(run_id, "KILLED")
            return
        if parent_has_exited:
            return
        parent_has_exited = not psutil.pid_exists(parent_pid)
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    _restore_killed_status(sys.argv[1], int(sys.argv[2]))
