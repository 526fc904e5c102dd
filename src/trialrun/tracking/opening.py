"""Opens the journal of a run and, unless the run is offline, the run itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import FOLDER_TAG, RunFolder
from trialrun.mlflow_client import redact_credentials, translate_tracking_errors
from trialrun.tracking.creation import (
    RunFacts,
    create_active_run,
    create_run,
    describe_run,
    plan_run,
    read_run,
)
from trialrun.tracking.heartbeat import HEARTBEAT_TAG, make_heartbeat
from trialrun.tracking.journal import Journal
from trialrun.tracking.records import CREATE, REOPEN, Record, make_tags
from trialrun.tracking.replay import RecordHandler, Replayer, RunTarget
from trialrun.tracking.system_metrics import PREFIX
from trialrun.tracking.writers import JournalWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SQLITE = "sqlite:///"


def _ignore_note(_text: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """How a run is recorded on disk and sent.

    `known_metrics` are the timestamps by name and step of values that the store has already, for a
    run with its journal on another machine. An `offline` run contacts no store.
    """

    folder: RunFolder
    flush_seconds: float = 60.0
    offline: bool = False
    handlers: Mapping[str, RecordHandler] = field(default_factory=dict)
    note: Callable[[str], None] = _ignore_note
    known_metrics: Mapping[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to create: in `experiment_id`, else where MLflow's rules put it."""

    experiment: str | None
    name: str | None
    tags: Mapping[str, str]
    experiment_id: str | None = None

    def create(self, client: "MlflowClient") -> "Run":
        """Create the run in the store.

        Raises:
            TrackingError: The store fails.
        """
        if self.experiment_id is not None:
            return create_run(client, self.experiment_id, self.name, self.tags)
        return create_active_run(client, self.experiment, self.name, self.tags)


def open_journal(
    client: "MlflowClient | None", options: JournalOptions, new: NewRun, run_id: str | None
) -> tuple[JournalWriter, RunFacts]:
    """Open the journal and the run: `run_id` if given, else a new one. Nothing is sent yet.

    Raises:
        TrackingError: The store fails.
        StorageError: The folder cannot be written, or its journal is damaged.
    """
    journal = Journal(options.folder.journal)
    replayer = None
    try:
        if client is None:
            facts = _open_offline(journal, options.folder, new, run_id)
        else:
            replayer = Replayer(
                journal, RunTarget(client, run_id or ""), options.handlers, options.folder
            )
            facts = _open_online(replayer, options.folder, new, run_id)
    except BaseException:
        journal.close()
        if run_id is None and not journal.num_records:  # the folder's run was never created
            options.folder.delete()
        raise
    writer = JournalWriter(
        journal,
        replayer,
        run_id=facts.run_id,
        flush_seconds=options.flush_seconds,
        note=options.note,
        start_ms=facts.start_ms,
    )
    return writer, _add_journaled(facts, journal)


def _open_online(
    replayer: Replayer, folder: RunFolder, new: NewRun, run_id: str | None
) -> RunFacts:
    client, journal = replayer.target.client, replayer.journal
    if run_id is None:
        run = replace(new, tags={**new.tags, **_build_folder_tags(folder)}).create(client)
        facts = describe_run(run)
    else:
        if _is_planned(journal):  # an offline run, which is created first
            replayer.send_next()
            run_id = replayer.target.run_id
        _record_reopening(journal, folder)
        with translate_tracking_errors(f"run {run_id} cannot be opened again"):
            client.update_run(run_id, status="RUNNING")
        facts = read_run(client, run_id)
    replayer.target.set_run(facts.run_id, facts.experiment_id)
    return facts


def _open_offline(journal: Journal, folder: RunFolder, new: NewRun, run_id: str | None) -> RunFacts:
    if run_id is not None:  # of `mlflow run`, or opened again
        _record_reopening(journal, folder)
        owner = folder.read_owner()
        return RunFacts(run_id, str(owner.get("experiment_id", "")), owner.get("run_name", run_id))
    offline_id = folder.path.name
    record = plan_run(
        offline_id,
        experiment=new.experiment,
        experiment_id=new.experiment_id,
        name=new.name,
        tags={**new.tags, **_build_folder_tags(folder)},
    )
    journal.append(record)
    return RunFacts(offline_id, record.values["experiment_id"] or "", record.values["name"])


def _record_reopening(journal: Journal, folder: RunFolder) -> None:
    journal.append(Record(REOPEN, {}))
    for record in make_tags(_build_folder_tags(folder)):
        journal.append(record)


def _build_folder_tags(folder: RunFolder) -> dict[str, str]:
    return {FOLDER_TAG: str(folder.path.absolute()), HEARTBEAT_TAG: make_heartbeat().to_tag()}


def _is_planned(journal: Journal) -> bool:
    """Whether the journal is that of a run that does not exist in the store yet."""
    pending = journal.list_pending()
    return bool(pending) and pending[0][1].kind == CREATE


def _add_journaled(facts: RunFacts, journal: Journal) -> RunFacts:
    """Add what the journal holds of an earlier process: parameters and system metrics."""
    last_step = journal.find_last_step(PREFIX)
    return replace(
        facts,
        params={**dict.fromkeys(journal.param_names, ""), **facts.params},
        next_system_step=max(facts.next_system_step, -1 if last_step is None else last_step + 1),
    )


def write_run_owner(folder: RunFolder, facts: RunFacts) -> None:
    """Store in the folder which run it belongs to, and the process that works on it.

    Raises:
        StorageError: The folder cannot be written.
    """
    import mlflow

    folder.write_owner(
        run_id=facts.run_id,
        experiment_id=facts.experiment_id,
        run_name=facts.name,
        tracking_uri=name_store(mlflow.get_tracking_uri()),
    )


def name_store(tracking_uri: str) -> str:
    """Return a name of a tracking store: its URI without credentials, with an absolute path."""
    if tracking_uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(tracking_uri.removeprefix(_SQLITE)).absolute()}"
    return redact_credentials(tracking_uri).rstrip("/")
