"""`trialrun sync`: a command that sends the records that wait on disk."""

from typing import TYPE_CHECKING

from trialrun.cli.app import CheckpointDir, Json, app
from trialrun.cli.output import (
    align_columns,
    print_json,
    print_result,
    print_status,
    silence_mlflow,
)

if TYPE_CHECKING:
    from trialrun.runs.recovery.sync import SyncedRun


@app.command()
def sync(
    checkpoint_dir: CheckpointDir = None,
    json: Json = False,
) -> None:
    """Send records that wait on disk to the tracking store.

    Training keeps them while the store is away or with --offline. The exit code is 5 if any remain.
    """
    silence_mlflow()
    from trialrun.runs.recovery.sync import check_all_sent, sync_runs

    runs = sync_runs(checkpoint_dir)
    if json:
        print_json({"runs": [run.to_json() for run in runs]})
    elif runs:
        _print_runs(runs)
    else:
        print_status("No records wait on this machine.")
    check_all_sent(runs)


def _print_runs(runs: "list[SyncedRun]") -> None:
    rows = [
        (run.run_id, run.run_name, run.outcome, str(run.num_sent), str(run.num_unsent), run.reason)
        for run in runs
    ]
    for line in align_columns([("run", "name", "outcome", "sent", "remain", "reason"), *rows]):
        print_result(line)
