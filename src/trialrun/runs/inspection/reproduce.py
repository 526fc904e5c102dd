"""A training run done again from its record, and held against it epoch by epoch."""

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
_SPLIT_SEED_TAG = "split_seed"  # of a search's trial
# What training decides; speeds and waiting times are the machine's.
_REPRODUCIBLE = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "valid_top5_accuracy",
    "learning_rate",
)
_SHOWN_FILES = 5
_CUT_NOTE = "the original did not end by itself: only the epochs that both have are compared"

Histories = dict[str, dict[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The original and its repetition; `differences` are of code and environment, old and new."""

    original_run_id: str
    run_id: str
    initial_weights_identical: bool | None  # None where the original's are not recorded
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
        """Plain values under the names of the fields."""
        return asdict(self)


@isolate_torch_state()
def reproduce_run(
    run_id: str,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    allow_changed_data: bool = False,
    callback: RunCallback | None = None,
) -> Reproduction:
    """Train again what `run_id` records, as a new run of its experiment, and compare.

    Raises:
        InvalidDatasetError: The data is no longer what it was, and that is not allowed.
        TrialrunError: As its kinds say.
    """
    callback = callback or NoOpCallback()
    client = connect_client()
    run_id = find_run_id(client, run_id)
    original = read_run(client, run_id)
    plan = _plan_repetition(client, original)
    changes = _find_data_changes(client, original, plan)
    if changes and not allow_changed_data:
        raise InvalidDatasetError(
            f"the data is not what run {run_id} learned from: {'; '.join(changes)}",
            "Restore it, or see how far it gets all the same: --allow-changed-data.",
        )
    recorded = read_environment(client, run_id)
    _set_threads(recorded)
    compute = resolve_compute(plan.config.device, plan.config.precision)
    differences = _find_differences(original, recorded, describe_environment(compute))
    for name, (then, now) in differences.items():
        callback.note(f"{name} was {then}, is {now}")
    result = train_run(plan, _LinkingCallback(callback, client, original))
    again = read_run(client, result.run_id)
    causes = describe_changes(original.settings(), original.params, again.params)
    return _build_result(client, original, again, tolerance, changes, differences, causes)


def _plan_repetition(client: "MlflowClient", original: RecordedRun) -> TrainPlan:
    """The original's plan, its resolved precision fixed, with nothing registered."""
    settings = _resolve_paths(original)
    if "train_data" not in settings:
        raise TrackingError(
            f"run {original.run_id} is no training run of trialrun's: it records no train_data",
            "Give the run that trained the model; `trialrun history` names promotions' runs, the "
            "version's page in MLflow its source run.",
        )
    recording = {
        "experiment": _experiment_name(client, original),
        "run_name": f"{original.name} again",
        "register_as": NONE_TEXT,
    }
    if settings.get("precision", AUTO_TEXT) == AUTO_TEXT:
        settings["precision"] = original.params.get("resolved_precision", AUTO_TEXT)
    if original.tags.get("stop_reason") != TIME_BUDGET:
        settings["max_minutes"] = NONE_TEXT  # this machine may be slower
    try:
        return _restore_split(original, settings | recording)
    except TrialrunError as error:
        error.hint = f"{error.hint} The settings are those that run {original.run_id} records."
        raise


def _resolve_paths(original: RecordedRun) -> dict[str, str]:
    """Its settings; paths are those that they were in the folder where the run was started."""
    settings, folder = original.settings(), original.tags.get(FOLDER_TAG)
    if folder is None:
        return settings
    given = {name: settings.get(name, NONE_TEXT) for name in _PATHS}
    names = {NONE_TEXT, DEFAULT_WEIGHTS, *ARCHITECTURES}
    there = {name: Path(folder, path) for name, path in given.items() if path not in names}
    return settings | {name: str(path) for name, path in there.items() if path.exists()}


def _restore_split(original: RecordedRun, settings: Mapping[str, str]) -> TrainPlan:
    """The plan; the sets of a search's trial were split by the search's seed, not by its own."""
    seed = original.tags.get(_SPLIT_SEED_TAG)
    if seed is None or "random_seed" not in settings:
        return plan_training(settings)
    plan = plan_training({**settings, "random_seed": seed})
    return replace(plan, config=replace(plan.config, random_seed=int(settings["random_seed"])))


def _experiment_name(client: "MlflowClient", original: RecordedRun) -> str:
    return str(client.get_experiment(original.experiment_id).name)


def _find_data_changes(
    client: "MlflowClient", original: RecordedRun, plan: TrainPlan
) -> tuple[str, ...]:
    """What is no longer as recorded, in words; both sets are read for it."""
    digests = {dataset.name: dataset.digest for dataset in original.datasets}
    rows = read_manifest(client, original.run_id) or []
    changes: list[str] = []
    for name, images in (("train", plan.train), ("valid", plan.valid)):
        scan = scan_files(images, threads=count_threads())
        if name not in digests:
            changes.append(f"the record has no digest of the {name} set")
        elif digests[name] != truncate_digest(scan):
            told = _find_file_changes([row for row in rows if row["set"] == name], scan)
            changes.append(f"{name} set: {told or 'digests differ'}")
    return tuple(changes)


def _find_file_changes(rows: list[dict[str, object]], scan: DatasetScan) -> str:
    before = {str(row["name"]): (row["label"], row["sha256"]) for row in rows}
    after = {
        item.name: (item.label, seen.sha256)
        for item, seen in zip(scan.images.items, scan.files, strict=True)
    }
    both = before.keys() & after.keys()
    kinds = {
        "added": after.keys() - before.keys(),
        "gone": before.keys() - after.keys(),
        "changed": {name for name in both if before[name] != after[name]},
    }
    return ", ".join(
        f"{len(names)} {kind} ({_format_some(names)})" for kind, names in kinds.items() if names
    )


def _format_some(names: set[str]) -> str:
    ordered = [make_printable(name) for name in sorted(names)]
    more = " ..." if len(ordered) > _SHOWN_FILES else ""
    return ", ".join(ordered[:_SHOWN_FILES]) + more


def _set_threads(recorded: Mapping[str, Any] | None) -> None:
    """As many threads as the original had: sums over another number of them differ in the end."""
    threads = (recorded or {}).get("num_threads")
    if isinstance(threads, int) and 1 <= threads <= 4096:
        torch.set_num_threads(threads)


def _find_differences(
    original: RecordedRun, recorded: Mapping[str, Any] | None, present: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    if recorded is None:
        return {"environment": ("not recorded", "")}
    return {
        name: (recorded.get(name), present.get(name))
        for name in present
        if recorded.get(name) != present.get(name)
    }


class _LinkingCallback:
    """Passes on what a run tells, and links the run to its original as soon as it is open."""

    def __init__(
        self, callback: RunCallback, client: "MlflowClient", original: RecordedRun
    ) -> None:
        self._observer, self._client, self._original = callback, client, original

    def opened(self, run_name: str, run_id: str) -> None:
        """Tag the run with its original."""
        TrackedRun(self._client, run_id).set_tags(
            {"trialrun.kind": "reproduction", _REPRODUCES_TAG: self._original.run_id}
        )
        self._observer.opened(run_name, run_id)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._observer.note(text)

    def scanning(self, what: str, num_images: int) -> None:
        """Pass it on."""
        self._observer.scanning(what, num_images)

    def scanned(self, num_images: int) -> None:
        """Pass it on."""
        self._observer.scanned(num_images)

    def epoch(self, status: EpochStatus, epochs: int) -> None:
        """Pass it on."""
        self._observer.epoch(status, epochs)


def _build_result(
    client: "MlflowClient",
    original: RecordedRun,
    again: RecordedRun,
    tolerance: float,
    changes: tuple[str, ...],
    differences: Mapping[str, tuple[Any, Any]],
    causes: tuple[str, ...],
) -> Reproduction:
    before, after = _read_histories(client, original), _read_histories(client, again)
    if was_cut := original.tags.get("stop_reason") not in (COMPLETED, EARLY_STOP):
        before, after = _common_epochs(before, after)
    history = compare_histories(before, after, tolerance=tolerance)
    old_sha, new_sha = (run.tags.get("weights_sha256") for run in (original, again))
    same_weights = old_sha is not None and old_sha == new_sha
    result = Reproduction(
        original_run_id=original.run_id,
        run_id=again.run_id,
        initial_weights_identical=_has_same_start(original, again),
        notes=(*causes, _CUT_NOTE) if was_cut else causes,
        verdict=_choose_verdict(history, same_weights=same_weights),
        since_epoch=history.since_epoch,
        weights_identical=same_weights,
        original_weights_sha256=old_sha,
        weights_sha256=new_sha,
        tolerance=tolerance,
        data_changes=changes,
        differences={**differences, **_describe_code_change(original, again)},
        history=history,
    )
    run = TrackedRun(client, again.run_id)
    run.log_text("reproduction.json", format_json(result.to_json()))
    run.set_tags({"trialrun.reproduction": result.verdict})
    return result


def _has_same_start(original: RecordedRun, again: RecordedRun) -> bool | None:
    before = original.params.get(INITIAL_WEIGHTS)
    return None if before is None else before == again.params.get(INITIAL_WEIGHTS)


def _choose_verdict(history: HistoryComparison, *, same_weights: bool) -> str:
    """The same figures from other weights, or from weights that nobody recorded, are no proof."""
    is_proven = history.verdict != IDENTICAL or same_weights
    return history.verdict if is_proven else WITHIN_TOLERANCE


def _read_histories(client: "MlflowClient", run: RecordedRun) -> Histories:
    return {
        metric: read_metric_history(client, run.run_id, metric)
        for metric in _REPRODUCIBLE
        if metric in run.metrics
    }


def _common_epochs(first: Histories, second: Histories) -> tuple[Histories, Histories]:
    """Both without the epochs that the other did not reach."""
    metrics = first.keys() & second.keys()
    epochs = {metric: first[metric].keys() & second[metric].keys() for metric in metrics}
    kept = [
        {metric: {epoch: each[metric][epoch] for epoch in epochs[metric]} for metric in metrics}
        for each in (first, second)
    ]
    return kept[0], kept[1]


def _describe_code_change(original: RecordedRun, again: RecordedRun) -> dict[str, tuple[Any, Any]]:
    if original.commit == again.commit:
        return {}
    return {"commit": (original.commit, again.commit)}
