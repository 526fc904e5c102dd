"""Sends what runs recorded on disk while their tracking store was away."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.checkpoint.run_folder import RunFolder, list_default_roots, list_run_folders
from trialrun.errors import TrackingError, TrialrunError, summarize_error
from trialrun.mlflow_client import connect_client
from trialrun.runs.recovery.cleanup import is_final
from trialrun.runs.training.outcome.model_upload import HANDLERS
from trialrun.tracking import Journal, Replayer, RunTarget, has_journal, name_store, send_all

if TYPE_CHECKING:
    from mlflow import MlflowClient

SENT, RUNNING, OTHER_STORE, NOT_SENT = "sent", "still running", "other store", "not sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedRun:
    """What became of the records of one run.

    `outcome` is one of `SENT`, `RUNNING`, `OTHER_STORE` and `NOT_SENT`; `reason` says why records
    remain.
    """

    run_id: str
    run_name: str
    folder: str
    outcome: str
    num_sent: int = 0
    num_unsent: int = 0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)


def sync_runs(checkpoint_dir: str | None = None) -> list[SyncedRun]:
    """Send the unsent records of the store's runs on this machine; delete what is not needed.

    Runs with nothing to send are not listed.

    Args:
        checkpoint_dir: The parent of the run folders; None looks where training puts them.

    Raises:
        TrackingError: There are records to send, but the store does not answer.
    """
    return sync_folders(list_local_folders(checkpoint_dir))


def list_local_folders(checkpoint_dir: str | None) -> list[RunFolder]:
    """Return the run folders in `checkpoint_dir`; None looks where training puts them."""
    import mlflow

    store = name_store(mlflow.get_tracking_uri())
    roots = [Path(checkpoint_dir).expanduser()] if checkpoint_dir else list_default_roots(store)
    return [folder for root in dict.fromkeys(roots) for folder in list_run_folders(root)]


def sync_folders(folders: list[RunFolder]) -> list[SyncedRun]:
    """Send the unsent records in these folders, as `sync_runs` does.

    Raises:
        TrackingError: There are records to send, but the store does not answer.
    """
    import mlflow

    store = name_store(mlflow.get_tracking_uri())
    return list(_sync_folders(folders, store, cache(connect_client)))


def clean_up_finished(folder: RunFolder, client: "MlflowClient") -> None:
    """Send what its process did not send before it was killed, and delete a finished run's folder.

    A folder that a process works on is left alone.

    Raises:
        TrialrunError: The journal is damaged, or the store does not answer.
    """
    if folder.is_locked():
        return
    with folder.lock():
        if has_journal(folder.journal):
            _sync_folder(folder, name_store(client.tracking_uri), lambda: client)
        else:
            folder.delete()


def check_all_sent(runs: list[SyncedRun]) -> None:
    """Check that no records of the store's ended runs remain.

    Raises:
        TrackingError: Records remain.
    """
    remaining = [run for run in runs if run.outcome == NOT_SENT]
    if remaining:
        num_unsent = sum(run.num_unsent for run in remaining)
        raise TrackingError(
            f"{num_unsent} records of {len(remaining)} runs were not sent: {remaining[0].reason}",
            "They remain on disk: remove the cause, then run `trialrun sync` again.",
        )


def _sync_folders(
    folders: list[RunFolder], store: str, connect: "Callable[[], MlflowClient]"
) -> Iterator[SyncedRun]:
    for folder in folders:
        if not has_journal(folder.journal):
            continue
        if folder.is_locked():
            yield _describe(folder, RUNNING)
            continue
        try:
            with folder.lock():
                outcome = _sync_folder(folder, store, connect)
        except TrackingError:  # the store does not answer at all
            raise
        except TrialrunError as error:
            yield _describe(folder, NOT_SENT, reason=summarize_error(error))
            continue
        if outcome is not None:
            yield outcome


def _sync_folder(
    folder: RunFolder, store: str, connect: "Callable[[], MlflowClient]"
) -> SyncedRun | None:
    """Send the records of one run while its lock is held; return None without records."""
    journal = Journal(folder.journal)
    try:
        if not journal.num_unsent:
            return None
        owner_store = folder.read_owner().get("tracking_uri", store)
        if owner_store != store:
            return _describe(
                folder, OTHER_STORE, num_unsent=journal.num_unsent, reason=f"it is of {owner_store}"
            )
        return _send_journal(folder, journal, connect())
    finally:
        journal.close()
        has_ended = journal.end_status == "FINISHED" or is_final(folder)
        if has_ended and not journal.num_unsent:
            folder.delete()


def _send_journal(folder: RunFolder, journal: Journal, client: "MlflowClient") -> SyncedRun:
    num_before, reason = journal.num_unsent, ""
    journal.retry_refused()
    replayer = Replayer(journal, RunTarget(client, folder.run_id or ""), HANDLERS, folder)
    try:
        send_all(replayer)
    except TrialrunError as error:
        reason = summarize_error(error)
    if replayer.refusals:
        reason = summarize_error(replayer.refusals[0])
    outcome = NOT_SENT if journal.num_unsent else SENT
    if outcome == SENT and journal.end_status is None:
        reason = f"its process was killed: `trialrun resume {replayer.target.run_id}` continues it"
    return _describe(
        folder,
        outcome,
        num_sent=num_before - journal.num_unsent,
        num_unsent=journal.num_unsent,
        reason=reason,
    )


def _describe(folder: RunFolder, outcome: str, **values: Any) -> SyncedRun:
    owner = folder.read_owner()
    return SyncedRun(
        run_id=owner.get("run_id", folder.path.name),
        run_name=owner.get("run_name", ""),
        folder=str(folder.path),
        outcome=outcome,
        **values,
    )
