"""The result of a reproduction: two runs of the same training, compared epoch by epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trialrun.engine.early_stopping import COMPLETED, EARLY_STOP
from trialrun.errors import NotReproducedError, TrackingError
from trialrun.report.histories import (
    DIFFERENT,
    IDENTICAL,
    WITHIN_TOLERANCE,
    HistoryComparison,
    compare_histories,
)
from trialrun.report.html_tables import render_fields
from trialrun.runs.inspection.run_reader import RecordedRun, read_metric_history
from trialrun.runs.training.initial import INITIAL_WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Metrics that training determines; speeds and waiting times depend on the machine.
_REPRODUCIBLE = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "valid_top5_accuracy",
    "learning_rate",
)
_ABORTED_NOTE = "the original was interrupted: only the epochs that both runs have are compared"

Histories = dict[str, dict[int, float]]
Differences = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The original run compared with its repetition.

    `differences` map names of the environment to the original's and the repetition's value.
    """

    original_run_id: str
    run_id: str
    initial_weights_identical: bool | None  # None if the original has no hash of them
    notes: tuple[str, ...]
    verdict: str
    since_epoch: int | None
    weights_identical: bool
    original_weights_sha256: str | None
    weights_sha256: str | None
    tolerance: float
    data_changes: tuple[str, ...]
    differences: Differences
    history: HistoryComparison

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        fields = {
            "verdict": self.verdict,
            "differs since epoch": self.since_epoch,
            "weights": "identical" if self.weights_identical else "different",
            "changes of the data": "; ".join(self.data_changes) or None,
            "notes": "; ".join(self.notes) or None,
            "run_id": self.run_id,
        }
        return render_fields(f"Repetition of {self.original_run_id}", fields)

    def raise_if_different(self) -> None:
        """Raise if the repetition came to another result.

        Raises:
            NotReproducedError: The verdict is `different`.
        """
        if self.verdict != DIFFERENT:
            return
        known = [*self.data_changes, *self.notes]
        if self.differences:
            known.append(f"other {', '.join(self.differences)}")
        raise NotReproducedError(
            f"run {self.run_id}, the repetition of run {self.original_run_id}, differs since epoch "
            f"{self.since_epoch}",
            f"Known differences: {'; '.join(known) or 'none'}. "
            f"`trialrun compare {self.original_run_id} {self.run_id}` shows both runs.",
        )


def check_has_epochs(original: RecordedRun) -> None:
    """Check that the original has metrics to compare with.

    Raises:
        TrackingError: The run has not completed an epoch.
    """
    if not any(metric in original.metrics for metric in _REPRODUCIBLE):
        raise TrackingError(
            f"run {original.run_id} has not completed an epoch, so its results cannot be compared",
            "Give a run that has trained for at least one epoch.",
        )


def compare_repetition(
    client: "MlflowClient",
    original: RecordedRun,
    repetition: RecordedRun,
    *,
    tolerance: float,
    data_changes: tuple[str, ...],
    differences: Differences,
    notes: tuple[str, ...],
) -> Reproduction:
    """Compare the metrics of each epoch and the weights of both runs.

    Raises:
        TrackingError: The runs have no epoch in common, or the store fails.
    """
    is_aborted = original.tags.get("stop_reason") not in (COMPLETED, EARLY_STOP)
    history = _compare_histories(client, original, repetition, tolerance, only_common=is_aborted)
    old_sha, new_sha = (run.tags.get("weights_sha256") for run in (original, repetition))
    same_weights = old_sha is not None and old_sha == new_sha
    return Reproduction(
        original_run_id=original.run_id,
        run_id=repetition.run_id,
        initial_weights_identical=_has_same_start(original, repetition),
        notes=(*notes, _ABORTED_NOTE) if is_aborted else notes,
        verdict=_choose_verdict(history, same_weights=same_weights),
        since_epoch=history.since_epoch,
        weights_identical=same_weights,
        original_weights_sha256=old_sha,
        weights_sha256=new_sha,
        tolerance=tolerance,
        data_changes=data_changes,
        differences={**differences, **_describe_code_change(original, repetition)},
        history=history,
    )


def _compare_histories(
    client: "MlflowClient",
    original: RecordedRun,
    repetition: RecordedRun,
    tolerance: float,
    *,
    only_common: bool,
) -> HistoryComparison:
    before, after = _read_histories(client, original), _read_histories(client, repetition)
    if only_common:
        before, after = _select_common_epochs(before, after)
    try:
        return compare_histories(before, after, tolerance=tolerance)
    except ValueError:
        raise TrackingError(
            f"runs {original.run_id} and {repetition.run_id} have no epoch in common",
            "Give a run that has trained for at least one epoch.",
        ) from None


def _has_same_start(original: RecordedRun, repetition: RecordedRun) -> bool | None:
    before = original.params.get(INITIAL_WEIGHTS)
    return None if before is None else before == repetition.params.get(INITIAL_WEIGHTS)


def _choose_verdict(history: HistoryComparison, *, same_weights: bool) -> str:
    """Return the verdict on the metrics; identical metrics are a proof only with equal weights."""
    is_proven = history.verdict != IDENTICAL or same_weights
    return history.verdict if is_proven else WITHIN_TOLERANCE


def _read_histories(client: "MlflowClient", run: RecordedRun) -> Histories:
    return {
        metric: read_metric_history(client, run.run_id, metric)
        for metric in _REPRODUCIBLE
        if metric in run.metrics
    }


def _select_common_epochs(first: Histories, second: Histories) -> tuple[Histories, Histories]:
    """Return both with only the metrics and epochs that both have."""
    metrics = first.keys() & second.keys()
    epochs = {metric: first[metric].keys() & second[metric].keys() for metric in metrics}
    common_first, common_second = (
        {metric: {epoch: history[metric][epoch] for epoch in epochs[metric]} for metric in metrics}
        for history in (first, second)
    )
    return common_first, common_second


def _describe_code_change(original: RecordedRun, repetition: RecordedRun) -> Differences:
    if original.commit == repetition.commit:
        return {}
    return {"commit": (original.commit, repetition.commit)}
