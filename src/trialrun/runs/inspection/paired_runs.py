"""Paired comparison of the predictions of several runs, on images that they have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trialrun.config import NONE_TEXT, build_config, list_settings
from trialrun.config.data import DataConfig
from trialrun.config.evaluate import CompareConfig
from trialrun.errors import InvalidParameterError
from trialrun.images import ImageItem, ImageSet, escape_non_utf8
from trialrun.report.paired import PairedComparison, compare_paired
from trialrun.runs.datasets.sources import open_sets, open_source
from trialrun.runs.evaluation.groups import group_images
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    align_by_hash,
    load_predictions,
)
from trialrun.runs.inspection.run_reader import RecordedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAIRED_METRICS = ("accuracy", "macro_f1", "log_loss")
_DATA_PARAMS = ("data", "valid_data", "train_data")  # the first that a run has is its test set


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """A run's predictions compared with the first run's, on the same images."""

    run: str
    comparison: PairedComparison


def compare_predictions(
    client: "MlflowClient",
    runs: Sequence[RecordedRun],
    labels: Sequence[str],
    config: CompareConfig,
) -> tuple[PairedRuns, ...]:
    """Compare each later run with the first if both have predictions for the same images.

    Raises:
        InvalidParameterError: The groups of the images cannot be found.
        TrackingError: The store fails.
    """
    first = load_predictions(client, runs[0].run_id)
    if first is None:
        return ()
    first = _set_groups(first, runs[0], config)
    pairs: list[PairedRuns] = []
    for run, label in zip(runs[1:], labels[1:], strict=True):
        second = load_predictions(client, run.run_id)
        aligned = None if second is None else align_by_hash(first, second)
        pairs += [] if aligned is None else _compare_pair(label, *aligned, config.confidence)
    return tuple(pairs)


def _compare_pair(
    label: str, first: ImagePredictions, second: ImagePredictions, confidence: float
) -> list[PairedRuns]:
    groups = group_images(first.sha256, first.groups or second.groups).groups
    return [
        PairedRuns(
            label,
            compare_paired(
                metric, first.predictions, second.predictions, confidence=confidence, groups=groups
            ),
        )
        for metric in _PAIRED_METRICS
    ]


def _set_groups(
    images: ImagePredictions, run: RecordedRun, config: CompareConfig
) -> ImagePredictions:
    """Return the predictions with the groups that the settings name, else those of the run."""
    if config.group_column is None and config.group_pattern is None:
        return images
    groups = _read_groups(run, config)
    missing = [name for name in images.names if name not in groups]
    if missing:
        raise InvalidParameterError(
            f"{len(missing)} images of run {run.run_id}, for example {missing[0]}, are not in its "
            "data any more, so that their groups are unknown",
            "Evaluate the models again with the same group setting.",
        )
    return replace(images, groups=tuple(groups[name] for name in images.names))


def _read_groups(run: RecordedRun, config: CompareConfig) -> Mapping[str, str | None]:
    """Return the group of each image of the run's data, by name."""
    images = _open_test_set(run, config)
    if images is None:
        raise InvalidParameterError(
            f"run {run.run_id} does not record its data", "Compare evaluations of trialrun."
        )
    return {escape_non_utf8(item.name): _escape_group(item) for item in images.items}


def _open_test_set(run: RecordedRun, config: CompareConfig) -> ImageSet | None:
    """Open the data of an evaluation, or the validation data of a training; None without any."""
    names = [item.name for item in list_settings(DataConfig)]
    recorded = {name: run.params[name] for name in names if name in run.params}
    column, pattern = config.group_column, config.group_pattern
    reading = build_config(DataConfig, recorded)
    for name in _DATA_PARAMS:
        source = run.params.get(name, NONE_TEXT)
        if source == NONE_TEXT:
            continue
        if name != "train_data":
            return open_source(source, group_column=column, group_pattern=pattern, config=reading)
        sets = open_sets(source, group_column=column, group_pattern=pattern, config=reading)
        return sets.valid or sets.train
    return None


def _escape_group(item: ImageItem) -> str | None:
    return item.group and escape_non_utf8(item.group)
