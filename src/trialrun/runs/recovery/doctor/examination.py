"""All checks of `trialrun doctor`, and with `--fix` the repairs between two rounds of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trialrun.errors import StorageError, TrialrunError, summarize_error
from trialrun.runs.recovery.doctor.environment import check_environment
from trialrun.runs.recovery.doctor.findings import PROBLEM, Finding, report_note, report_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from trialrun.checkpoint.run_folder import RunFolder
    from trialrun.runs.recovery.doctor.folders import FolderState
    from trialrun.runs.recovery.doctor.stale_runs import RunningRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the checks found, and what was repaired before them."""

    findings: list[Finding]
    repairs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unfinished:
    """The runs and folders that a process may have left; `client` is None without a store."""

    client: "MlflowClient | None"
    running: "RunningRuns | None"
    folders: "list[RunFolder]"
    states: "list[FolderState]"


def diagnose(checkpoint_dir: str | None = None, *, fix: bool = False) -> Diagnosis:
    """Check the environment, the store, the disks and what runs left behind; repair if asked.

    Without `fix` nothing is changed. Errors of checks are findings.

    Args:
        checkpoint_dir: The parent of the run folders; None looks where training puts them.
        fix: Whether to end stale runs, send records and delete what has no use.
    """
    findings = list(check_environment())
    if any(finding.state == PROBLEM for finding in findings):
        skipped = "The store and the runs are checked once these problems are solved."
        return Diagnosis(findings=[*findings, report_note("other checks", "not done", skipped)])
    repairs: list[str] = []
    if fix:
        try:
            repairs.extend(_repair(checkpoint_dir))
        except TrialrunError as error:
            repairs.append(f"stopped: {summarize_error(error)}")
    return Diagnosis(findings=[*findings, *_check_runs(checkpoint_dir)], repairs=repairs)


def _check_runs(checkpoint_dir: str | None) -> Iterator[Finding]:
    from trialrun.runs.recovery.doctor.disks import check_disks
    from trialrun.runs.recovery.doctor.store import check_stores

    stores = check_stores()
    yield from stores.findings
    states: list[FolderState] = []
    try:
        unfinished = _find_unfinished(checkpoint_dir, has_runs=stores.has_runs)
        states = unfinished.states
        findings = list(_judge_unfinished(unfinished))
    except TrialrunError as error:
        findings = [report_problem("runs", str(error), error.hint, type(error))]
    except OSError as error:
        remedy = "Check the permissions of the run folders."
        findings = [report_problem("run folders", str(error), remedy, StorageError)]
    largest = max((state.largest_checkpoint_bytes for state in states), default=0)
    yield from check_disks(checkpoint_dir, largest)
    if stores.findings[0].state == PROBLEM:
        yield report_note("runs", "not checked, because the store cannot be used")
    yield from findings


def _judge_unfinished(unfinished: _Unfinished) -> Iterator[Finding]:
    from trialrun.runs.recovery.doctor.folders import judge_folders
    from trialrun.runs.recovery.doctor.models import check_models
    from trialrun.runs.recovery.doctor.stale_runs import judge_running

    if unfinished.running is not None:
        yield from judge_running(unfinished.running)
    yield from judge_folders(unfinished.states)
    if unfinished.client is not None:
        yield from check_models(unfinished.client, _list_ended(unfinished))


def _find_unfinished(checkpoint_dir: str | None, *, has_runs: bool) -> _Unfinished:
    import mlflow

    from trialrun.checkpoint.run_folder import list_run_folders
    from trialrun.mlflow_client import connect_client
    from trialrun.runs.recovery.doctor.folders import inspect_folders
    from trialrun.runs.recovery.doctor.stale_runs import find_running
    from trialrun.runs.recovery.sync import list_local_folders
    from trialrun.tracking import name_store

    client = connect_client() if has_runs else None
    running = None if client is None else find_running(client)
    folders = list_local_folders(checkpoint_dir)
    for root in sorted(running.roots) if running else []:
        folders += [folder for folder in list_run_folders(root) if folder not in folders]
    states = inspect_folders(client, folders, name_store(mlflow.get_tracking_uri()))
    return _Unfinished(client=client, running=running, folders=folders, states=states)


def _list_ended(unfinished: _Unfinished) -> dict[str, str]:
    """Return the ids and experiments of the runs in the store that no process works on."""
    from trialrun.runs.recovery.doctor.folders import MISSING, UNKNOWN
    from trialrun.tracking import DELETED

    stale = unfinished.running.stale if unfinished.running else []
    in_store = {
        state.run_id: state.experiment_id
        for state in unfinished.states
        if state.run_id is not None
        and state.experiment_id is not None
        and state.status not in (MISSING, UNKNOWN, DELETED)
    }
    return {**{run.run_id: run.experiment_id for run in stale}, **in_store}


def _repair(checkpoint_dir: str | None) -> Iterator[str]:
    """Repair what can be repaired; yield what was done."""
    from trialrun.runs.recovery.doctor.repair import end_stale_runs, repair_folders, send_records
    from trialrun.runs.recovery.doctor.stale_runs import find_running
    from trialrun.runs.recovery.doctor.store import check_stores

    has_runs = check_stores().has_runs
    unfinished = _find_unfinished(checkpoint_dir, has_runs=has_runs)
    if unfinished.client is not None:
        yield from send_records(unfinished.folders)  # they may hold the ends of the runs
        yield from end_stale_runs(unfinished.client, find_running(unfinished.client).stale)
        unfinished = _find_unfinished(checkpoint_dir, has_runs=True)
    yield from repair_folders(unfinished.states)
