"""The progress of a search as metrics of its parent run, whose step is the trial number."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.tracking import TrackedRun
from trialrun.tuning.objectives import Objective, as_minimized
from trialrun.tuning.study import attrs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_MAX_METRICS = 1000  # MLflow's limit for one call

Row = tuple[int, int, dict[str, float]]  # trial number, milliseconds since 1970, values by metric


def log_progress(
    run: TrackedRun, trials: Sequence["FrozenTrial"], objectives: Sequence[Objective]
) -> None:
    """Log the value of each completed trial and the best so far; what was logged before remains.

    Raises:
        TrackingError: The store fails.
    """
    from mlflow.entities import Metric

    rows = list(list_progress(trials, objectives))
    with translate_tracking_errors("the progress of the search cannot be logged"):
        known = {
            (name, item.step, item.value)
            for name in {name for _, _, values in rows for name in values}
            for item in run.client.get_metric_history(run.run_id, name)
        }
        metrics = [
            Metric(name, value, timestamp_ms, number)
            for number, timestamp_ms, values in rows
            for name, value in values.items()
            if (name, number, value) not in known
        ]
        for start in range(0, len(metrics), _MAX_METRICS):
            run.client.log_batch(run.run_id, metrics=metrics[start : start + _MAX_METRICS])


def list_progress(
    trials: Sequence["FrozenTrial"], objectives: Sequence[Objective]
) -> Iterator[Row]:
    """Yield the metrics after each completed trial, by number.

    `trial_METRIC` is the trial's own value: its loss, its accuracy and the objectives. The metrics
    that runs are compared by are those of the best trial so far; `training_seconds` adds up the
    time of all trials.
    """
    from optuna.trial import TrialState

    best: FrozenTrial | None = None
    seconds = 0.0
    for trial in trials:
        seconds += trial.duration.total_seconds() if trial.duration else 0.0
        if trial.state != TrialState.COMPLETE:
            continue
        if best is None or _rank(trial, objectives) < _rank(best, objectives):
            best = trial
        assert trial.datetime_complete is not None
        own, so_far = (_read_values(item, objectives) for item in (trial, best))
        values = {f"trial_{name}": value for name, value in own.items()}
        values |= {f"best_{name}": value for name, value in so_far.items()}
        values |= {
            "best_epoch": best.user_attrs[attrs.RESULT]["best_epoch"],
            "training_seconds": seconds,
        }
        yield trial.number, int(1000 * trial.datetime_complete.timestamp()), values


def _rank(trial: "FrozenTrial", objectives: Sequence[Objective]) -> list[float]:
    return as_minimized(trial.values, objectives)


def _read_values(trial: "FrozenTrial", objectives: Sequence[Objective]) -> dict[str, float]:
    """Return the loss, the accuracy and the objectives of a trial's best epoch."""
    metrics = trial.user_attrs[attrs.RESULT]["metrics"]
    values = {name: float(metrics[name]) for name in ("valid_loss", "valid_accuracy")}
    pairs = zip(objectives, trial.values, strict=True)
    return values | {objective.metric: float(value) for objective, value in pairs}
