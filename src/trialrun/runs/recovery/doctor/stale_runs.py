"""Runs that say RUNNING: those without a live process are stale.

Training refreshes its heartbeat every minute and locks its folder. Other commands, such as a search
or an evaluation, only name their process.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trialrun.checkpoint.run_folder import FOLDER_TAG, RunFolder
from trialrun.errors import TrackingError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.runs.recovery.doctor.findings import (
    Finding,
    report_note,
    report_ok,
    report_problem,
)
from trialrun.runs.recovery.doctor.folders import is_in_use
from trialrun.runs.recovery.resume import STUDY_TAG
from trialrun.tracking import HEARTBEAT_TAG, Heartbeat, parse_heartbeat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUNS = "runs"
RUNNING = "RUNNING"
# A heartbeat comes every minute. A long upload, or a store that restarts, delays it.
_STALE_SECONDS = 600.0
_MAX_NAMED = 3
_ALIVE: Literal["alive"] = "alive"
_GONE: Literal["gone"] = "gone"
_OVERDUE: Literal["overdue"] = "overdue"
_UNCERTAIN: Literal["uncertain"] = "uncertain"
_QUERY = f"attributes.status = '{RUNNING}'"
_PAGE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleRun:
    """A run without a live process; `is_certain` is false if that is concluded from its heartbeat.

    `folder` is the run's folder, if it is on this machine; `study` that of a search or a trial.
    """

    run_id: str
    experiment_id: str
    name: str
    study: str | None
    heartbeat: Heartbeat
    folder: RunFolder | None
    is_certain: bool

    def describe(self) -> str:
        """Return what is known of its process."""
        process = f"process {self.heartbeat.pid} on {self.heartbeat.host}"
        if self.is_certain:
            return f"{process} is gone"
        minutes = (time.time() - self.heartbeat.time) / 60
        return f"{process} is probably gone: its last heartbeat was {minutes:.0f} minutes ago"


@dataclass(slots=True)
class RunningRuns:
    """The runs of a store that say RUNNING.

    `remote` are those of other machines that send no heartbeats; `unknown` have none at all.
    """

    num_alive: int = 0
    stale: list[StaleRun] = field(default_factory=list)
    remote: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    roots: set[Path] = field(default_factory=set)  # parents of run folders on this machine


def find_running(client: "MlflowClient") -> RunningRuns:
    """Return the runs that say RUNNING, judged by their processes.

    Raises:
        TrackingError: The store fails.
    """
    found = RunningRuns()
    with translate_tracking_errors("running runs cannot be listed"):
        for run in _search_running(client):
            _add(found, run)
    return found


def _search_running(client: "MlflowClient") -> "Iterator[Run]":
    experiments, token = [], None
    while True:
        page = client.search_experiments(max_results=_PAGE_SIZE, page_token=token)
        experiments += [item.experiment_id for item in page]
        if not (token := page.token):
            break
    while True:
        runs = client.search_runs(
            experiments, _QUERY, max_results=_PAGE_SIZE, page_token=token or None
        )
        yield from runs
        if not (token := runs.token):
            return


def _add(found: RunningRuns, run: "Run") -> None:
    tags, run_id = run.data.tags, str(run.info.run_id)
    heartbeat = parse_heartbeat(tags.get(HEARTBEAT_TAG))
    if heartbeat is None:
        found.unknown.append(run_id)
        return
    folder = _find_folder(tags)
    if folder is not None:
        found.roots.add(folder.path.parent)
    life = _judge_process(heartbeat, folder, is_refreshed=FOLDER_TAG in tags)
    if life == _ALIVE:
        found.num_alive += 1
    elif life == _UNCERTAIN:
        found.remote.append(run_id)
    else:
        found.stale.append(
            StaleRun(
                run_id=run_id,
                experiment_id=str(run.info.experiment_id),
                name=str(run.info.run_name),
                study=tags.get(STUDY_TAG),
                heartbeat=heartbeat,
                folder=folder,
                is_certain=life == _GONE,
            )
        )


def _find_folder(tags: Mapping[str, str]) -> RunFolder | None:
    """Return the run's folder if it is on this machine."""
    path = Path(tags.get(FOLDER_TAG, ""))
    return RunFolder(path) if FOLDER_TAG in tags and path.is_dir() else None


def _judge_process(
    heartbeat: Heartbeat, folder: RunFolder | None, *, is_refreshed: bool
) -> Literal["alive", "gone", "overdue", "uncertain"]:
    """Judge whether a run's process lives; the lock of a folder counts on every machine."""
    if folder is not None and is_in_use(folder):
        return _ALIVE
    if heartbeat.is_of_this_machine():
        return _ALIVE if heartbeat.has_living_process() else _GONE
    if not is_refreshed:
        return _UNCERTAIN
    return _OVERDUE if time.time() - heartbeat.time >= _STALE_SECONDS else _ALIVE


def judge_running(running: RunningRuns) -> Iterator[Finding]:
    """Yield the findings about the runs that say RUNNING."""
    for run in running.stale:
        text = f"{run.run_id} ({run.name}) says {RUNNING}, but {run.describe()}"
        remedy = f"`trialrun doctor --fix` ends it. {_suggest_restart(run)}"
        yield report_problem(RUNS, text, remedy, TrackingError, run_id=run.run_id, is_fixable=True)
    if running.remote:
        yield report_note(
            RUNS,
            f"of other machines, {RUNNING} without heartbeats: {_name_some(running.remote)}",
            "Run `trialrun doctor` on those machines.",
        )
    if running.unknown:
        yield report_note(
            RUNS,
            f"of other programs, or not started yet, {RUNNING}: {_name_some(running.unknown)}",
            "`mlflow.MlflowClient().set_terminated(RUN_ID, 'KILLED')` ends one.",
        )
    if not running.stale:
        yield report_ok(RUNS, f"{running.num_alive} in progress, none without its process")


def _suggest_restart(run: StaleRun) -> str:
    if run.study is not None:
        return (
            f"`trialrun search --study {run.study}` with its other settings continues the search."
        )
    if run.folder is not None:
        return f"`trialrun resume {run.run_id}` continues it."
    return "Start its command again."


def _name_some(run_ids: Sequence[str]) -> str:
    more = len(run_ids) - _MAX_NAMED
    named = ", ".join(run_ids[:_MAX_NAMED])
    return f"{named} and {more} more" if more > 0 else named
