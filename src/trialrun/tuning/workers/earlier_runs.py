"""The runs that a retried trial continues, and what they left on this machine."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from trialrun.checkpoint.run_folder import RunFolder, find_run_folder, list_default_roots
from trialrun.checkpoint.store import Checkpoint, CheckpointStore
from trialrun.errors import StorageError, TrialrunError
from trialrun.mlflow_client import connect_client
from trialrun.runs.inspection.run_reader import read_run
from trialrun.runs.recovery.cleanup import delete_run_data
from trialrun.runs.recovery.finished import read_result, read_timestamps
from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.checkpoints import check_restorable
from trialrun.runs.training.resumption.identity import check_identity, describe_identity
from trialrun.runs.training.run import ResumedRun
from trialrun.runs.training.session import resolve_rank_compute
from trialrun.tracking import DELETED, find_run

_FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """Finds the folders of trials' runs on this machine, in `checkpoint_dir` or the default one."""

    checkpoint_dir: str | None

    def find_folder(self, run_id: str) -> RunFolder | None:
        """Return the folder of a run; None if it is not on this machine."""
        import mlflow

        roots = list_default_roots(mlflow.get_tracking_uri())
        if self.checkpoint_dir is not None:
            roots = [Path(self.checkpoint_dir).expanduser(), *roots]
        folders = (find_run_folder(root, run_id) for root in roots)
        return next((folder for folder in folders if folder is not None), None)

    def can_continue(self, run_id: str) -> bool:
        """Whether a retry can use a run: its result, or its folder, which no process works on.

        The process of a worker that was only suspended still holds its folder.

        Raises:
            TrackingError: The store fails.
        """
        run = find_run(connect_client(), run_id)
        if run is None or run.info.lifecycle_stage == DELETED:
            return False
        if run.info.status == _FINISHED:
            return True
        folder = self.find_folder(run_id)
        return folder is not None and not folder.is_locked()

    def read(
        self, run_id: str, plan: TrainPlan, data: PreparedData
    ) -> TrainResult | ResumedRun | None:
        """Return the result of a finished run, or what it continues from; None to start again.

        Raises:
            TrackingError: The store fails.
        """
        client = connect_client()
        run = read_run(client, run_id)
        if run.status == _FINISHED:
            return read_result(client, run)
        folder = self.find_folder(run_id)
        checkpoint = None if folder is None else _read_checkpoint(folder)
        if folder is None or checkpoint is None or not _is_same(checkpoint, plan, data):
            return None
        known_metrics = read_timestamps(client, run_id)
        precision = checkpoint.values["precision"]
        return ResumedRun(run_id, folder, lambda: checkpoint, known_metrics, precision)

    def delete(self, run_ids: Collection[str]) -> None:
        """Delete what runs that no trial continues left on this machine."""
        for folder in filter(None, map(self.find_folder, run_ids)):
            delete_run_data(folder)


def _read_checkpoint(folder: RunFolder) -> Checkpoint | None:
    """Return the newest intact checkpoint; None without one, or if a process uses the folder."""
    store = CheckpointStore(folder.checkpoints)
    try:
        with folder.lock():
            store.delete_damaged()
            return store.read_newest()
    except StorageError:
        return None


def _is_same(checkpoint: Checkpoint, plan: TrainPlan, data: PreparedData) -> bool:
    """Whether the trial would continue with its images and model files, on one rank."""
    identity = describe_identity(plan, data, resolve_rank_compute(plan))
    try:
        check_identity(checkpoint.values["identity"], identity)
        check_restorable(checkpoint, checkpoint.values["precision"], world_size=1)
    except TrialrunError:
        return False
    return True
