"""MLflow runs, written by id and always ended with a status."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.engine.early_stopping import KILLED
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.mlflow_client import (
    describe_experiment,
    find_experiment_id,
    retry_conflicts,
    translate_tracking_errors,
)
from trialrun.signals import act_if_stuck
from trialrun.tracking.deferred_signals import defer_signals
from trialrun.tracking.killed_status import spawn_status_fixer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

_RUN_ID_VARIABLE = "MLFLOW_RUN_ID"  # set by `mlflow run` for its child

PARENT_TAG = "mlflow.parentRunId"
DELETED = "deleted"  # lifecycle stage of a run that can be restored

_BATCH_PARAMS = 100  # MLflow's limit for one call
# MLflow's limits. Longer values are cut here: MLflow refuses them if MLFLOW_TRUNCATE_LONG_VALUES is
# false.
MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000

_used_project_runs: set[str] = set()  # runs that `mlflow run` opened and this process has used


class TrackedRun:
    """Writes to one MLflow run by its id, never to the thread's "active run"."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        with translate_tracking_errors(f"run {run_id} cannot be read"):
            run = client.get_run(run_id)
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self._params = dict(run.data.params)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters, except those that the run already has (`mlflow run` logs its own).

        Values are cut to the length that MLflow stores.
        """
        from mlflow.entities import Param

        new = [
            Param(name, text[:MAX_PARAM_LENGTH])
            for name, text in params.items()
            if name not in self._params
        ]
        with self._defer_signals(), translate_tracking_errors("parameters cannot be logged"):
            for start in range(0, len(new), _BATCH_PARAMS):
                batch = new[start : start + _BATCH_PARAMS]
                self.client.log_batch(self.run_id, params=batch)
        self._params |= {param.key: param.value for param in new}

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int,
        *,
        timestamp_ms: int | None = None,
        **links: Any,
    ) -> int:
        """Log the metrics of one step in one call.

        Args:
            metrics: Values by name.
            step: The epoch or trial.
            timestamp_ms: Milliseconds since 1970; None is now.
            links: MLflow's `model_id`, `dataset_name` and `dataset_digest`.

        Returns:
            The timestamp that was logged.
        """
        from mlflow.entities import Metric

        timestamp = timestamp_ms or time.time_ns() // 1_000_000
        batch = [Metric(name, value, timestamp, step, **links) for name, value in metrics.items()]
        with self._defer_signals(), translate_tracking_errors("metrics cannot be logged"):
            self.client.log_batch(self.run_id, metrics=batch)
        return timestamp

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing tags of the same names; values are cut as in `log_params`."""
        from mlflow.entities import RunTag

        batch = [RunTag(name, _cut_tag(text)) for name, text in tags.items()]
        with self._defer_signals(), translate_tracking_errors("tags cannot be set"):
            self.client.log_batch(self.run_id, tags=batch)

    def log_inputs(self, datasets: "Sequence[DatasetInput]") -> None:
        """Log the datasets of the run; other runs may log the same new datasets at once."""

        def log_once() -> None:
            with self._defer_signals():
                self.client.log_inputs(self.run_id, list(datasets))

        with translate_tracking_errors("datasets cannot be logged"):
            retry_conflicts(log_once)

    def _defer_signals(self) -> AbstractContextManager[None]:
        """Defer signals while a local database is written, which takes milliseconds.

        A transaction that an exception interrupts may keep its lock, and ending the run would then
        wait for that lock. A server manages its own transactions, and may be slow.
        """
        is_local = self.client.tracking_uri.startswith("sqlite:")
        return defer_signals() if is_local else nullcontext()

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact."""
        with translate_tracking_errors(f"{path.name} cannot be stored"):
            self.client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, name: str, text: str) -> None:
        """Store `text` as an artifact with the name `name`."""
        with translate_tracking_errors(f"{name} cannot be stored"):
            self.client.log_text(self.run_id, text, name)

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        _end_run(self.client, self.run_id, status)


@contextmanager
def open_run(
    client: "MlflowClient",
    *,
    experiment: str | None,
    name: str | None,
    tags: Mapping[str, str],
    run_id: str | None = None,
) -> Iterator[TrackedRun]:
    """Open a run that always ends: as FINISHED, as FAILED on an error, as KILLED on a signal.

    - With `run_id`, that run is opened again.
    - Otherwise, in a child process of `mlflow run`, the first call uses the run that MLflow opened,
      with its experiment and name.
    - Otherwise the run is new. It is nested below the active run of the calling thread, if any. Its
      experiment is `experiment`, else that of the active run, else MLflow's active experiment. A
      nested run may be in another experiment than its parent, as in MLflow.

    System metrics are logged while the run is open.
    """
    is_resumed = run_id is not None
    with ExitStack() as stack:
        with defer_signals():  # until `_end_on_exit` is entered and ends the run
            project_run_id = _take_project_run() if run_id is None else None
            if run_id is not None:
                with translate_tracking_errors(f"run {run_id} cannot be opened again"):
                    client.update_run(run_id, status="RUNNING")
            else:
                run_id = project_run_id or _create_active_run(client, experiment, name, tags)
            stack.enter_context(_end_on_exit(client, run_id, by_mlflow=project_run_id is not None))
        run = TrackedRun(client, run_id)
        run.set_tags(tags)
        describe_experiment(client, run.experiment_id)
        with _monitor_system(run_id, is_resumed=is_resumed):
            yield run


@contextmanager
def open_nested_run(
    client: "MlflowClient",
    *,
    parent_run_id: str,
    experiment_id: str,
    name: str | None,
    tags: Mapping[str, str],
) -> Iterator[TrackedRun]:
    """Open a run below another one; it always ends. Only the parent logs system metrics."""
    with ExitStack() as stack:
        with defer_signals():
            run_id = _create_run(client, experiment_id, name, {**tags, PARENT_TAG: parent_run_id})
            stack.enter_context(_end_on_exit(client, run_id, by_mlflow=False))
        yield TrackedRun(client, run_id)


@contextmanager
def _end_on_exit(client: "MlflowClient", run_id: str, *, by_mlflow: bool) -> Iterator[None]:
    """End a run with the status that matches how the block ended."""

    def end_stuck(signal_name: str) -> None:
        reason = f"stopped by {signal_name}"
        _end_failed_run(client, run_id, "KILLED", reason, stop_reason=KILLED)

    try:
        with act_if_stuck(end_stuck):
            yield
        _end_run(client, run_id, "FINISHED")
    except (KeyboardInterrupt, RunInterruptedError, GeneratorExit) as error:
        # A signal while the block is being left can close its generator: GeneratorExit.
        if isinstance(error, RunInterruptedError):
            error.hint = _describe_restart(run_id)
        reason = str(error) or "stopped by SIGINT"
        _end_failed_run(client, run_id, "KILLED", reason, stop_reason=KILLED)
        if by_mlflow:
            spawn_status_fixer(run_id)
        raise
    except BaseException as error:
        _end_failed_run(client, run_id, "FAILED", f"{type(error).__name__}: {error}")
        raise


def _describe_restart(_run_id: str) -> str:
    """Return the hint of a run that a signal has ended."""
    return "Its MLflow run has ended as KILLED; start it again."


def _cut_tag(text: str) -> str:
    """Return the text of a tag, cut to the length that MLflow stores."""
    return text if len(text) <= _MAX_TAG_LENGTH else text[: _MAX_TAG_LENGTH - 1] + "…"


def _end_run(client: "MlflowClient", run_id: str, status: str) -> None:
    with translate_tracking_errors("the run cannot be ended"):
        client.set_terminated(run_id, status)


def _end_failed_run(
    client: "MlflowClient", run_id: str, status: str, error: str, **tags: str
) -> None:
    """End a run after an error; errors of the store are ignored, so that the first is raised."""
    with defer_signals():
        with suppress(TrialrunError), translate_tracking_errors("tags cannot be set"):
            for name, text in {"error": error, **tags}.items():
                client.set_tag(run_id, name, _cut_tag(text))
        with suppress(TrialrunError):
            _end_run(client, run_id, status)


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


def find_project_run() -> str | None:
    """Return the id of the run that `mlflow run` opened for this process, if any."""
    return os.environ.get(_RUN_ID_VARIABLE) or None


def _take_project_run() -> str | None:
    """Return the id of the project run on the first call only: later runs must not write to it."""
    run_id = find_project_run()
    if run_id is None or run_id in _used_project_runs:
        return None
    _used_project_runs.add(run_id)
    return run_id


def _create_active_run(
    client: "MlflowClient", experiment: str | None, name: str | None, tags: Mapping[str, str]
) -> str:
    """Create a run as `mlflow.start_run(nested=True)` would in the calling thread."""
    import mlflow

    parent = mlflow.active_run()
    if parent is None:
        return _create_run(client, find_experiment_id(client, experiment), name, tags)
    experiment_id = (
        parent.info.experiment_id if experiment is None else find_experiment_id(client, experiment)
    )
    return _create_run(client, experiment_id, name, {**tags, PARENT_TAG: parent.info.run_id})


def _create_run(
    client: "MlflowClient", experiment_id: str, name: str | None, tags: Mapping[str, str]
) -> str:
    from mlflow.tracking.context.registry import resolve_tags

    with translate_tracking_errors("the run cannot be opened"):
        run = client.create_run(experiment_id, run_name=name, tags=resolve_tags(dict(tags)))
    return str(run.info.run_id)


@contextmanager
def _monitor_system(run_id: str, *, is_resumed: bool) -> Iterator[None]:
    """Let a thread of MLflow log the use of processor, memory, disk and network.

    In a resumed run the steps continue from the earlier process.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=is_resumed)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        # The monitor samples at the start of each interval and logs at its end. Log the last sample
        # here: otherwise it is lost, and a run shorter than one interval has none.
        with (
            suppress(TrialrunError),
            translate_tracking_errors("the last system metrics cannot be logged"),
        ):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()


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
