"""MLflow runs, written by id and always ended with a status."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.engine.early_stopping import KILLED
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.signals import act_if_stuck
from trialrun.tracking.creation import (
    PARENT_TAG,
    RunFacts,
    find_project_run,
    read_run,
    take_project_run,
)
from trialrun.tracking.deferred_signals import defer_signals
from trialrun.tracking.heartbeat import HEARTBEAT_TAG, make_heartbeat
from trialrun.tracking.killed_status import spawn_status_fixer
from trialrun.tracking.opening import JournalOptions, NewRun, open_journal, write_run_owner
from trialrun.tracking.records import (
    EXPERIMENT,
    Record,
    make_inputs,
    make_metrics,
    make_params,
    make_tags,
)
from trialrun.tracking.replay import ERROR_TAG, now_ms
from trialrun.tracking.system_metrics import monitor_system
from trialrun.tracking.writers import DirectWriter, JournalWriter, RecordWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

DELETED = "deleted"  # lifecycle stage of a run that can be restored


class TrackedRun:
    """Writes to one MLflow run by its id, never to the thread's "active run".

    A run with a journal returns at once: its records are on disk, and a thread sends them. What the
    store refuses is raised by the next call.
    """

    def __init__(
        self,
        client: "MlflowClient | None",
        run_id: str,
        *,
        writer: RecordWriter | None = None,
        facts: RunFacts | None = None,
        known_metrics: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        """Open an existing run; all but an offline run need a client."""
        self.run_id = run_id
        self._client = client
        self.writer = writer or DirectWriter(self.client, run_id)
        facts = facts or read_run(self.client, run_id)
        self.experiment_id = facts.experiment_id
        self.name = facts.name
        self.next_system_step = facts.next_system_step
        self._known_params = set(facts.params)
        self._known_metrics = known_metrics or {}

    @property
    def client(self) -> "MlflowClient":
        """The client of the run's store, which an offline run does not have."""
        assert self._client is not None
        return self._client

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters, except those that the run already has (`mlflow run` logs its own).

        Values are cut to the length that MLflow stores.
        """
        new = {name: text for name, text in params.items() if name not in self._known_params}
        for record in make_params(new):
            self.writer.write(record)
        self._known_params |= new.keys()

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int,
        *,
        timestamp_ms: int | None = None,
        **links: Any,
    ) -> int:
        """Log the metrics of one step in one call.

        A resumed run may repeat an epoch with known metrics: the first values remain.

        Args:
            metrics: Values by name.
            step: The epoch or trial.
            timestamp_ms: Milliseconds since 1970; None is now.
            links: MLflow's `model_id`, `dataset_name` and `dataset_digest`.

        Returns:
            The timestamp that was logged, or that of the known values.
        """
        known = {} if links else {name: self._find_timestamp(name, step) for name in metrics}
        new = {name: value for name, value in metrics.items() if known.get(name) is None}
        timestamp = timestamp_ms or now_ms()
        for record in make_metrics(new, step, timestamp, **links):
            self.writer.write(record)
        return min((first for first in known.values() if first is not None), default=timestamp)

    def _find_timestamp(self, name: str, step: int) -> int | None:
        return self._known_metrics.get((name, step)) or self.writer.find_timestamp(name, step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing tags of the same names; values are cut as in `log_params`."""
        for record in make_tags(tags):
            self.writer.write(record)

    def log_inputs(self, datasets: "Sequence[DatasetInput]") -> None:
        """Log the datasets of the run; other runs may log the same new datasets at once."""
        self.writer.write(make_inputs(datasets))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact."""
        self.writer.write_file(path, folder)

    def log_text(self, name: str, text: str) -> None:
        """Store `text` as an artifact with the name `name`."""
        self.writer.write_text(name, text)

    def log_custom(
        self, kind: str, values: Mapping[str, Any], fill: Callable[[Path], None]
    ) -> None:
        """Write a record that the handler of `kind` sends, with a folder that `fill` creates."""
        self.writer.write_custom(kind, values, fill)

    def read_result(self, kind: str) -> Mapping[str, Any] | None:
        """Return what the handler of a custom record returned; None if it was not sent yet."""
        return self.writer.read_result(kind)

    def flush(self) -> None:
        """Wait until the store has all records, or does not answer for `flush_seconds`.

        Raises:
            TrialrunError: The store refused a record.
        """
        self.writer.flush()

    @property
    def is_drained(self) -> bool:
        """Whether the store has all records; also after the run has ended."""
        return self.writer.is_drained

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        self.writer.end(status)


@contextmanager
def open_run(
    client: "MlflowClient | None",
    *,
    experiment: str | None,
    name: str | None,
    tags: Mapping[str, str],
    run_id: str | None = None,
    journal: JournalOptions | None = None,
) -> Iterator[TrackedRun]:
    """Open a run that always ends: as FINISHED, as FAILED on an error, as KILLED on a signal.

    - With `run_id`, that run is opened again.
    - Otherwise, in a child process of `mlflow run`, the first call uses the run that MLflow opened,
      with its experiment and name.
    - Otherwise the run is new. It is nested below the active run of the calling thread, if any. Its
      experiment is `experiment`, else that of the active run, else MLflow's active experiment. A
      nested run may be in another experiment than its parent, as in MLflow.

    With `journal`, records go to a journal on disk and a thread sends them. Its lock is held while
    the run is open. `client` is None for an offline run. System metrics are logged while the run is
    open.
    """
    new = NewRun(experiment, name, tags)
    is_resumed = run_id is not None
    with _open_tracked(client, new, run_id, journal, uses_project_run=not is_resumed) as run:
        run.set_tags(tags)
        run.writer.write(Record(EXPERIMENT, {}))
        with monitor_system(run.writer, first_step=run.next_system_step if is_resumed else 0):
            yield run


@contextmanager
def open_nested_run(
    client: "MlflowClient | None",
    *,
    parent_run_id: str,
    experiment_id: str,
    name: str | None,
    tags: Mapping[str, str],
    run_id: str | None = None,
    journal: JournalOptions | None = None,
) -> Iterator[TrackedRun]:
    """Open a run below another one; it always ends. Only the parent logs system metrics.

    With `run_id`, that run is opened again, and gets the tags too.
    """
    new = NewRun(None, name, {**tags, PARENT_TAG: parent_run_id}, experiment_id)
    with _open_tracked(client, new, run_id, journal, uses_project_run=False) as run:
        if run_id is not None:
            run.set_tags(tags)
        yield run


@contextmanager
def _open_tracked(
    client: "MlflowClient | None",
    new: NewRun,
    run_id: str | None,
    journal: JournalOptions | None,
    *,
    uses_project_run: bool,
) -> Iterator[TrackedRun]:
    with ExitStack() as stack:
        if journal is not None:
            stack.enter_context(journal.folder.lock())
        with defer_signals():  # until `_end_on_exit` is entered and ends the run
            project_run_id = take_project_run() if uses_project_run else None
            run_id = project_run_id or run_id
            if journal is None:
                assert client is not None
                writer, facts = _open_directly(client, new, run_id)
            else:
                writer, facts = open_journal(client, journal, new, run_id)
            stack.enter_context(_end_on_exit(writer, by_mlflow=project_run_id is not None))
        if journal is None:
            yield TrackedRun(client, writer.run_id, writer=writer)
            return
        assert isinstance(writer, JournalWriter)
        assert facts is not None
        write_run_owner(journal.folder, facts)
        writer.start()
        yield TrackedRun(
            client,
            facts.run_id,
            writer=writer,
            facts=facts,
            known_metrics=journal.known_metrics,
        )


def _open_directly(
    client: "MlflowClient", new: NewRun, run_id: str | None
) -> tuple[RecordWriter, None]:
    heartbeat = make_heartbeat().to_tag()  # of the opening only: nothing refreshes it
    if run_id is None:
        created = replace(new, tags={**new.tags, HEARTBEAT_TAG: heartbeat}).create(client)
        return DirectWriter(client, str(created.info.run_id)), None
    if run_id != find_project_run():
        with translate_tracking_errors(f"run {run_id} cannot be opened again"):
            client.update_run(run_id, status="RUNNING")
    # Best effort: the run's own tags, which follow, report a store that refuses tags.
    with suppress(TrialrunError), translate_tracking_errors("the heartbeat cannot be set"):
        client.set_tag(run_id, HEARTBEAT_TAG, heartbeat)
    return DirectWriter(client, run_id), None


@contextmanager
def _end_on_exit(writer: RecordWriter, *, by_mlflow: bool) -> Iterator[None]:
    """End a run with the status that matches how the block ended."""

    def end_stuck(signal_name: str) -> None:
        writer.fail("KILLED", {ERROR_TAG: f"stopped by {signal_name}", "stop_reason": KILLED})

    try:
        with act_if_stuck(end_stuck):
            yield
        writer.end("FINISHED")
    except (KeyboardInterrupt, RunInterruptedError, GeneratorExit) as error:
        # A signal while the block is being left can close its generator: GeneratorExit.
        if isinstance(error, RunInterruptedError):
            error.hint = _describe_restart(writer)
        reason = str(error) or "stopped by SIGINT"
        writer.fail("KILLED", {ERROR_TAG: reason, "stop_reason": KILLED})
        if by_mlflow:
            spawn_status_fixer(writer.run_id)
        raise
    except BaseException as error:
        writer.fail("FAILED", {ERROR_TAG: f"{type(error).__name__}: {error}"})
        raise
    finally:
        writer.close()


def _describe_restart(writer: RecordWriter) -> str:
    """Return the hint of a run that a signal has ended; only one with a journal can be resumed."""
    if isinstance(writer, JournalWriter):
        return f"Continue it with `trialrun resume {writer.run_id}`."
    return "Its MLflow run has ended as KILLED; start it again."


def find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """Return the run with this id, deleted or not; None if the store does not have it.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.exceptions import MlflowException

    with translate_tracking_errors(f"run {run_id} cannot be read"):
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def kill_unopened_run() -> None:
    """End as KILLED the run that `mlflow run` opened, if this process stopped before using it."""
    run_id = find_project_run()
    if run_id is None:
        return
    import mlflow

    with translate_tracking_errors("the run cannot be ended"):
        client = mlflow.MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")
            spawn_status_fixer(run_id)
