"""Repeats a recorded training run and compares the repetition with it, epoch by epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trialrun.config import AUTO_TEXT, NONE_TEXT
from trialrun.config.reproduce import DEFAULT_TOLERANCE
from trialrun.engine.compute.precision import resolve_compute
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.engine.early_stopping import COMPLETED, EARLY_STOP, TIME_BUDGET, EpochStatus
from trialrun.errors import InvalidDatasetError, TrackingError, TrialrunError
from trialrun.files import format_json
from trialrun.images import make_printable
from trialrun.images.scanning.scan import DatasetScan, scan_files
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.mlflow_client import connect_client
from trialrun.models.names import ARCHITECTURES, DEFAULT_WEIGHTS
from trialrun.registry.versions import read_manifest
from trialrun.report.histories import (
    IDENTICAL,
    WITHIN_TOLERANCE,
    HistoryComparison,
    compare_histories,
)
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.inspection.run_reader import (
    RecordedRun,
    find_run_id,
    read_environment,
    read_metric_history,
    read_run,
)
from trialrun.runs.training.environment import FOLDER_TAG, describe_environment
from trialrun.runs.training.initial import INITIAL_WEIGHTS, describe_changes
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.run import train_run
from trialrun.tracking import TrackedRun, truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REPRODUCES_TAG = "trialrun.reproduces"
_PATHS = ("train_data", "valid_data", "model", "weights", "transforms")
_SPLIT_SEED_TAG = "split_seed"  # set on trials of a search
# Metrics that training determines; speeds and waiting times depend on the machine.
_REPRODUCIBLE = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "valid_top5_accuracy",
    "learning_rate",
)
_SHOWN_FILES = 5
_ABORTED_NOTE = "the original was interrupted: only the epochs that both runs have are compared"

Histories = dict[str, dict[int, float]]


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
    differences: Mapping[str, tuple[Any, Any]]
    history: HistoryComparison

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return asdict(self)


@isolate_torch_state()
def reproduce_run(
    run_id: str,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    allow_changed_data: bool = False,
    callback: RunCallback | None = None,
) -> Reproduction:
    """Train with the recorded settings of `run_id` in a new run of its experiment, and compare.

    Raises:
        InvalidDatasetError: The data has changed, and `allow_changed_data` is false.
        TrialrunError: The original cannot be read, or training fails (see its subclasses).
    """
    callback = callback or NoOpCallback()
    client = connect_client()
    run_id = find_run_id(client, run_id)
    original = read_run(client, run_id)
    plan = _plan_repetition(client, original)
    data_changes = _check_data(client, original, plan, allow_changes=allow_changed_data)
    environment = read_environment(client, run_id)
    _set_threads(environment)
    compute = resolve_compute(plan.config.device, plan.config.precision)
    differences = _find_differences(environment, describe_environment(compute))
    for name, (before, now) in differences.items():
        callback.on_note(f"{name} was {before}, is {now}")
    result = train_run(plan, _LinkingCallback(callback, client, original))
    repetition = read_run(client, result.run_id)
    causes = describe_changes(original.settings(), original.params, repetition.params)
    return _compare_with_original(
        client, original, repetition, tolerance, data_changes, differences, causes
    )


def _plan_repetition(client: "MlflowClient", original: RecordedRun) -> TrainPlan:
    """Plan with the original's settings and resolved precision; do not register a model."""
    settings = _resolve_paths(original)
    if "train_data" not in settings:
        raise TrackingError(
            f"run {original.run_id} is not a training run of trialrun: it has no train_data",
            "Give the run that trained the model, which MLflow shows as the version's source run. "
            "`trialrun history` shows the runs of promotions.",
        )
    overrides = {
        "experiment": _experiment_name(client, original),
        "run_name": f"{original.name} again",
        "register_as": NONE_TEXT,
    }
    if settings.get("precision", AUTO_TEXT) == AUTO_TEXT:
        settings["precision"] = original.params.get("resolved_precision", AUTO_TEXT)
    if original.tags.get("stop_reason") != TIME_BUDGET:
        settings["max_minutes"] = NONE_TEXT  # this machine may need more time
    try:
        return _restore_split(original, settings | overrides)
    except TrialrunError as error:
        error.hint = f"{error.hint} The settings are those of run {original.run_id}."
        raise


def _resolve_paths(original: RecordedRun) -> dict[str, str]:
    """Return the settings, with paths relative to the folder in which the run was started."""
    settings, folder = original.settings(), original.tags.get(FOLDER_TAG)
    if folder is None:
        return settings
    values = {name: settings.get(name, NONE_TEXT) for name in _PATHS}
    not_paths = {NONE_TEXT, DEFAULT_WEIGHTS, *ARCHITECTURES}
    paths = {name: Path(folder, value) for name, value in values.items() if value not in not_paths}
    return settings | {name: str(path) for name, path in paths.items() if path.exists()}


def _restore_split(original: RecordedRun, settings: Mapping[str, str]) -> TrainPlan:
    """Plan the run; split the data of a search's trial by the search's seed, not the trial's."""
    seed = original.tags.get(_SPLIT_SEED_TAG)
    if seed is None or "random_seed" not in settings:
        return plan_training(settings)
    plan = plan_training({**settings, "random_seed": seed})
    return replace(plan, config=replace(plan.config, random_seed=int(settings["random_seed"])))


def _experiment_name(client: "MlflowClient", original: RecordedRun) -> str:
    return str(client.get_experiment(original.experiment_id).name)


def _check_data(
    client: "MlflowClient", original: RecordedRun, plan: TrainPlan, *, allow_changes: bool
) -> tuple[str, ...]:
    """Return the changes of the data, or raise because of them."""
    changes = _find_data_changes(client, original, plan)
    if changes and not allow_changes:
        raise InvalidDatasetError(
            f"the data differs from that of run {original.run_id}: {'; '.join(changes)}",
            "Restore the data, or reproduce with the changed data: --allow-changed-data.",
        )
    return changes


def _find_data_changes(
    client: "MlflowClient", original: RecordedRun, plan: TrainPlan
) -> tuple[str, ...]:
    """Scan both sets and describe how they differ from the recorded digests and manifest."""
    digests = {dataset.name: dataset.digest for dataset in original.datasets}
    rows = read_manifest(client, original.run_id) or []
    changes: list[str] = []
    for name, images in (("train", plan.train), ("valid", plan.valid)):
        scan = scan_files(images, threads=count_threads())
        if name not in digests:
            changes.append(f"the original has no digest of the {name} set")
        elif digests[name] != truncate_digest(scan):
            file_changes = _find_file_changes([row for row in rows if row["set"] == name], scan)
            changes.append(f"{name} set: {file_changes or 'digests differ'}")
    return tuple(changes)


def _find_file_changes(rows: list[dict[str, object]], scan: DatasetScan) -> str:
    before = {str(row["name"]): (row["label"], row["sha256"]) for row in rows}
    after = {
        item.name: (item.label, file.sha256)
        for item, file in zip(scan.images.items, scan.files, strict=True)
    }
    both = before.keys() & after.keys()
    kinds = {
        "added": after.keys() - before.keys(),
        "missing": before.keys() - after.keys(),
        "changed": {name for name in both if before[name] != after[name]},
    }
    return ", ".join(
        f"{len(names)} {kind} ({_format_names(names)})" for kind, names in kinds.items() if names
    )


def _format_names(names: set[str]) -> str:
    ordered = [make_printable(name) for name in sorted(names)]
    more = " ..." if len(ordered) > _SHOWN_FILES else ""
    return ", ".join(ordered[:_SHOWN_FILES]) + more


def _set_threads(environment: Mapping[str, Any] | None) -> None:
    """Use the original's number of threads: with another number, sums round differently."""
    threads = (environment or {}).get("num_threads")
    if isinstance(threads, int) and 1 <= threads <= 4096:
        torch.set_num_threads(threads)


def _find_differences(
    recorded: Mapping[str, Any] | None, current: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the recorded and the current value of everything that differs."""
    if recorded is None:
        return {"environment": ("not recorded", "")}
    return {
        name: (recorded.get(name), value)
        for name, value in current.items()
        if recorded.get(name) != value
    }


class _LinkingCallback:
    """Forwards all calls, and tags the run with its original as soon as it is open."""

    def __init__(
        self, callback: RunCallback, client: "MlflowClient", original: RecordedRun
    ) -> None:
        self._callback, self._client, self._original = callback, client, original

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

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Forward to the wrapped callback."""
        self._callback.on_epoch_end(status, epochs)


def _compare_with_original(
    client: "MlflowClient",
    original: RecordedRun,
    repetition: RecordedRun,
    tolerance: float,
    data_changes: tuple[str, ...],
    differences: Mapping[str, tuple[Any, Any]],
    causes: tuple[str, ...],
) -> Reproduction:
    """Compare the runs, and log the result to the repetition."""
    is_aborted = original.tags.get("stop_reason") not in (COMPLETED, EARLY_STOP)
    history = _compare_histories(client, original, repetition, tolerance, only_common=is_aborted)
    old_sha, new_sha = (run.tags.get("weights_sha256") for run in (original, repetition))
    same_weights = old_sha is not None and old_sha == new_sha
    result = Reproduction(
        original_run_id=original.run_id,
        run_id=repetition.run_id,
        initial_weights_identical=_has_same_start(original, repetition),
        notes=(*causes, _ABORTED_NOTE) if is_aborted else causes,
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
    run = TrackedRun(client, repetition.run_id)
    run.log_text("reproduction.json", format_json(result.to_json()))
    run.set_tags({"trialrun.reproduction": result.verdict})
    return result


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
    return compare_histories(before, after, tolerance=tolerance)


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


def _describe_code_change(
    original: RecordedRun, repetition: RecordedRun
) -> dict[str, tuple[Any, Any]]:
    if original.commit == repetition.commit:
        return {}
    return {"commit": (original.commit, repetition.commit)}
