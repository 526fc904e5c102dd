"""Repeats a recorded training run and compares the repetition with it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from trialrun.config.reproduce import ReproduceConfig
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import EpochStatus
from trialrun.files import format_json
from trialrun.mlflow_client import connect_client
from trialrun.runs.callbacks import BatchProgress, NoOpCallback, RunCallback
from trialrun.runs.inspection.input_changes import find_changes
from trialrun.runs.inspection.repetition import (
    Repetition,
    load_training_settings,
    plan_repetition,
)
from trialrun.runs.inspection.reproduction import (
    Differences,
    Reproduction,
    check_has_epochs,
    compare_repetition,
)
from trialrun.runs.inspection.run_reader import (
    RecordedRun,
    find_run_id,
    read_environment,
    read_run,
)
from trialrun.runs.training.environment import describe_environment
from trialrun.runs.training.run import train_run
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REPRODUCES_TAG = "trialrun.reproduces"


@isolate_torch_state()
def reproduce_run(
    run_id: str, config: ReproduceConfig | None = None, callback: RunCallback | None = None
) -> Reproduction:
    """Train with the recorded settings of `run_id` in a new run of its experiment, and compare.

    The result may have the verdict `different`: see `Reproduction.raise_if_different`.

    Raises:
        TrialrunError: The original cannot be read or has nothing to compare, its inputs have
            changed and `allow_changed_data` is false, or training fails (see its subclasses).
    """
    config, callback = config or ReproduceConfig(), callback or NoOpCallback()
    client = connect_client()
    original = read_run(client, find_run_id(client, run_id))
    settings = load_training_settings(client, original)
    check_has_epochs(original)
    repetition = plan_repetition(client, original, settings, config)
    changes = find_changes(client, original, settings, repetition.plan)
    if not config.allow_changed_data:
        changes.raise_if_refused(original.run_id)
    environment = read_environment(client, original.run_id)
    _set_threads(environment)
    differences = _find_differences(environment, repetition)
    notes = (*changes.notes(), *_describe_device(differences, config), *repetition.notes)
    for text in (*_describe_differences(differences), *notes):
        callback.on_note(text)
    result = train_run(repetition.plan, _LinkingCallback(callback, client, original))
    comparison = compare_repetition(
        client,
        original,
        read_run(client, result.run_id),
        tolerance=config.tolerance,
        data_changes=changes.data,
        differences=differences,
        notes=notes,
    )
    _log_comparison(TrackedRun(client, result.run_id), comparison)
    return comparison


def _set_threads(environment: Mapping[str, Any] | None) -> None:
    """Use the original's number of threads: with another number, sums round differently."""
    threads = (environment or {}).get("num_threads")
    if isinstance(threads, int) and 1 <= threads <= 4096:
        torch.set_num_threads(threads)


def _find_differences(recorded: Mapping[str, Any] | None, repetition: Repetition) -> Differences:
    """Return the recorded and the current value of everything that differs."""
    precision = (repetition.original_precision, repetition.compute.precision)
    differences: dict[str, tuple[Any, Any]] = {}
    if recorded is None:
        differences["environment"] = ("not recorded", "")
    else:
        current = describe_environment(repetition.compute)
        differences |= {
            name: (recorded.get(name), value)
            for name, value in current.items()
            if recorded.get(name) != value
        }
    if repetition.notes:
        differences["precision"] = precision
    return differences


def _describe_differences(differences: Differences) -> list[str]:
    return [
        f"{name} was {before}, is {now}"
        for name, (before, now) in differences.items()
        if name not in ("device", "precision")  # these have notes of their own
    ]


def _describe_device(differences: Differences, config: ReproduceConfig) -> tuple[str, ...]:
    if "device" not in differences:
        return ()
    before, now = differences["device"]
    return (
        f"the original was trained on {before}, the repetition on {now}: devices round "
        f"differently, so that the metrics can agree only within the tolerance of "
        f"{config.tolerance:g}",
    )


class _LinkingCallback:
    """Forwards all calls, and tags the run with its original as soon as it is open."""

    def __init__(
        self, callback: RunCallback, client: "MlflowClient", original: RecordedRun
    ) -> None:
        self._callback, self._client, self._original = callback, client, original

    @property
    def batch_interval(self) -> float | None:
        """That of the wrapped callback."""
        return self._callback.batch_interval

    def on_batch(self, progress: BatchProgress) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_batch(progress)

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Tag the run with its original and forward."""
        TrackedRun(self._client, run_id).set_tags(
            {"trialrun.kind": "reproduction", _REPRODUCES_TAG: self._original.run_id}
        )
        self._callback.on_run_start(run_name, run_id)

    def on_note(self, text: str) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_note(text)

    def on_scan_start(self, description: str, num_images: int) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_scan_start(description, num_images)

    def on_scan_progress(self, num_images: int) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_scan_progress(num_images)

    def on_resume(self, epochs: Sequence[Mapping[str, float]], stop_reason: str | None) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_resume(epochs, stop_reason)

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_epoch_end(status, epochs)


def _log_comparison(run: TrackedRun, comparison: Reproduction) -> None:
    run.log_text("reproduction.json", format_json(comparison.to_json()))
    run.set_tags({"trialrun.reproduction": comparison.verdict})
