"""One MLflow run, written by its id and always ended."""

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
    translate_tracking_errors,
)
from trialrun.tracking.deferred_signals import defer_signals
from trialrun.tracking.killed_status import spawn_status_fixer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

_RUN_ID_VARIABLE = "MLFLOW_RUN_ID"  # set by `mlflow run` for its child

PARENT_TAG = "mlflow.parentRunId"

_BATCH_PARAMS = 100  # MLflow's limit for one call

_taken: set[str] = set()  # runs that `mlflow run` opened and this process has used


class TrackedRun:
    """The record of one run: writes by id, never to the thread's "active run"."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        with translate_tracking_errors(f"run {run_id} cannot be read"):
            run = client.get_run(run_id)
        self.experiment_id: str = run.info.experiment_id
        self.name: str = run.info.run_name
        self._params = dict(run.data.params)

    def params(self, params: Mapping[str, str]) -> None:
        """Record parameters; names that `mlflow run` has recorded already are left as they are."""
        from mlflow.entities import Param

        new = [Param(name, text) for name, text in params.items() if name not in self._params]
        with self._writing(), translate_tracking_errors("parameters cannot be recorded"):
            for start in range(0, len(new), _BATCH_PARAMS):
                batch = new[start : start + _BATCH_PARAMS]
                self.client.log_batch(self.run_id, params=batch)
        self._params |= {param.key: param.value for param in new}

    def metrics(
        self,
        metrics: Mapping[str, float],
        step: int,
        *,
        timestamp_ms: int | None = None,
        **links: Any,
    ) -> int:
        """Record an epoch's metrics in one call; the time they were given, in ms since 1970.

        `links` are MLflow's `model_id`, `dataset_name` and `dataset_digest`.
        """
        from mlflow.entities import Metric

        when = timestamp_ms or time.time_ns() // 1_000_000
        batch = [Metric(name, value, when, step, **links) for name, value in metrics.items()]
        with self._writing(), translate_tracking_errors("metrics cannot be recorded"):
            self.client.log_batch(self.run_id, metrics=batch)
        return when

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing those of the same names."""
        from mlflow.entities import RunTag

        batch = [RunTag(name, text) for name, text in tags.items()]
        with self._writing(), translate_tracking_errors("tags cannot be recorded"):
            self.client.log_batch(self.run_id, tags=batch)

    def inputs(self, datasets: "Sequence[DatasetInput]") -> None:
        """Record what was trained and validated on."""
        with self._writing(), translate_tracking_errors("datasets cannot be recorded"):
            self.client.log_inputs(self.run_id, list(datasets))

    def _writing(self) -> AbstractContextManager[None]:
        """Let signals wait until a local database has been written, which takes milliseconds.

        A transaction that an exception cuts may keep its lock: what the run has to say of its end
        would wait for it in vain. A server looks after its transactions itself, and may be slow.
        """
        is_local = self.client.tracking_uri.startswith("sqlite:")
        return defer_signals() if is_local else nullcontext()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file with the run."""
        with translate_tracking_errors(f"{path.name} cannot be stored"):
            self.client.log_artifact(self.run_id, str(path), folder)

    def text(self, name: str, text: str) -> None:
        """Store `text` with the run as a file called `name`."""
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
    """A run that is always ended: FINISHED, FAILED on an error, KILLED on a signal.

    With `run_id` it is that one, opened again; else below `mlflow run` the run that MLflow has
    opened, whose experiment and name stand, once in a process; else a new one. Where the calling
    thread has an active run, the new one is nested below it. It is in `experiment`, for None in the
    active run's, and without one in the experiment that MLflow has active. As in MLflow, a nested
    run may be in another experiment than its parent. System metrics are recorded meanwhile.
    """
    is_resumed = run_id is not None
    with ExitStack() as stack:
        with defer_signals():  # from when the run is there until it is sure to be ended
            opened = _take_project_run() if run_id is None else None
            if run_id is not None:
                with translate_tracking_errors(f"run {run_id} cannot be opened again"):
                    client.update_run(run_id, status="RUNNING")
            else:
                run_id = opened or _new_active_run(client, experiment, name, tags)
            stack.enter_context(_end_on_exit(client, run_id, by_mlflow=opened is not None))
        run = TrackedRun(client, run_id)
        run.tags(tags)
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
    """A new run below another, always ended; its parent records the machine for both."""
    with ExitStack() as stack:
        with defer_signals():
            run_id = _new_run(client, experiment_id, name, {**tags, PARENT_TAG: parent_run_id})
            stack.enter_context(_end_on_exit(client, run_id, by_mlflow=False))
        yield TrackedRun(client, run_id)


@contextmanager
def _end_on_exit(client: "MlflowClient", run_id: str, *, by_mlflow: bool) -> Iterator[None]:
    """End a run with a status that is true of how the block was left."""
    try:
        yield
        _end_run(client, run_id, "FINISHED")
    except (KeyboardInterrupt, RunInterruptedError, GeneratorExit) as cut:
        # A signal between two of the calls that leave a block drops its generator: GeneratorExit.
        if isinstance(cut, RunInterruptedError):
            cut.hint = "Its MLflow run has ended as KILLED; start it again."
        _end_failed_run(
            client, run_id, "KILLED", str(cut) or "stopped by SIGINT", stop_reason=KILLED
        )
        if by_mlflow:
            spawn_status_fixer(run_id)
        raise
    except BaseException as error:
        _end_failed_run(client, run_id, "FAILED", f"{type(error).__name__}: {error}")
        raise


def _end_run(client: "MlflowClient", run_id: str, status: str) -> None:
    with translate_tracking_errors("the run cannot be ended"):
        client.set_terminated(run_id, status)


def _end_failed_run(
    client: "MlflowClient", run_id: str, status: str, error: str, **told: str
) -> None:
    """End a run that did not end well; what the store says to that is not what went wrong first."""
    with defer_signals():
        with suppress(TrialrunError), translate_tracking_errors("tags cannot be recorded"):
            for name, text in {"error": error, **told}.items():
                client.set_tag(run_id, name, text)
        with suppress(TrialrunError):
            _end_run(client, run_id, status)


def find_project_run() -> str | None:
    """The run that `mlflow run` has opened for this process."""
    return os.environ.get(_RUN_ID_VARIABLE) or None


def _take_project_run() -> str | None:
    """That run, the first time only: what comes after must not write into a run that has ended."""
    run_id = find_project_run()
    if run_id is None or run_id in _taken:
        return None
    _taken.add(run_id)
    return run_id


def _new_active_run(
    client: "MlflowClient", experiment: str | None, name: str | None, tags: Mapping[str, str]
) -> str:
    """A new run where `mlflow.start_run(nested=True)` in the calling thread would open one."""
    import mlflow

    parent = mlflow.active_run()
    if parent is None:
        return _new_run(client, find_experiment_id(client, experiment), name, tags)
    its_own = parent.info.experiment_id
    chosen = its_own if experiment is None else find_experiment_id(client, experiment)
    return _new_run(client, chosen, name, {**tags, PARENT_TAG: parent.info.run_id})


def _new_run(
    client: "MlflowClient", experiment_id: str, name: str | None, tags: Mapping[str, str]
) -> str:
    from mlflow.tracking.context.registry import resolve_tags

    with translate_tracking_errors("the run cannot be opened"):
        run = client.create_run(experiment_id, run_name=name, tags=resolve_tags(dict(tags)))
    return str(run.info.run_id)


@contextmanager
def _monitor_system(run_id: str, *, is_resumed: bool) -> Iterator[None]:
    """MLflow's own sampling of processor, memory, disk and network, in a thread.

    Steps go on from those that an earlier process recorded.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=is_resumed)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        # It samples at the start of each interval and records at its end: a run shorter than one
        # would have no sample, a longer one no last. No run shall end for want of that.
        with (
            suppress(TrialrunError),
            translate_tracking_errors("the last sample cannot be recorded"),
        ):
            monitor.publish_metrics(monitor.aggregate_metrics())
            monitor.mlflow_logger.flush()


def kill_unopened_run() -> None:
    """End as KILLED the run that `mlflow run` opened for us, stopped before we took it up."""
    run_id = find_project_run()
    if run_id is None:
        return
    import mlflow

    with translate_tracking_errors("the run cannot be ended"):
        client = mlflow.MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")
            spawn_status_fixer(run_id)
