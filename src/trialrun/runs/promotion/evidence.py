"""The evidence for a promotion: predictions of challenger and champion on the test images."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from trialrun.config.promote import PromoteConfig
from trialrun.engine.compute.device import find_device
from trialrun.images.scanning.scan import DatasetScan
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder
from trialrun.registry.gates import Evidence, Overlap
from trialrun.registry.versions import TRAINED_ON, ModelVersion, read_file_hashes
from trialrun.report.bootstrap import Resampling
from trialrun.report.metrics import compute_metrics, compute_recall
from trialrun.report.paired import PairedComparison, compare_paired
from trialrun.runs.evaluation.evaluate import log_metrics
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    collect_predictions,
    find_readable_rows,
    log_predictions,
    predict_images,
)
from trialrun.runs.evaluation.score import read_contents
from trialrun.runs.evaluation.tables import log_tables
from trialrun.scoring import ImageScore, move_classifier, score_images
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CHAMPION_PREDICTIONS = "champion_predictions.parquet"
_LATENCY_IMAGES, _WARM_UP_IMAGES = 30, 3
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
    """The predictions of both versions on the same images, and the evidence computed from them.

    The champion and its predictions are optional: None without a champion.
    """

    challenger: ModelVersion
    champion: ModelVersion | None
    challenger_predictions: ImagePredictions
    champion_predictions: ImagePredictions | None
    evidence: Evidence


def evaluate_candidates(
    client: "MlflowClient",
    config: PromoteConfig,
    scan: DatasetScan,
    challenger: ModelVersion,
    champion: ModelVersion | None,
) -> CandidateEvaluation:
    """Predict the images of `scan` with both versions and collect the evidence.

    Raises:
        TrialrunError: A model cannot be downloaded or opened, or no image can be read.
    """
    device = find_device(config.device)
    scored = _score_version(challenger, device, scan)
    scored_champion = _score_version(champion, device, scan) if champion else None
    all_scores = [model.scores for model in (scored, scored_champion) if model]
    rows = find_readable_rows(scan, *all_scores)
    predictions = scored.collect(scan, rows)
    champion_predictions = scored_champion.collect(scan, rows) if scored_champion else None
    evidence = Evidence(
        metrics=compute_metrics(predictions.predictions),
        size_mb=_folder_bytes(scored.folder) / _BYTES_PER_MB,
        latency_ms=None
        if config.max_latency_ms is None
        else _measure_latency_ms(scored.model, scan),
        overlaps=_find_overlaps(client, scan, challenger, champion),
        class_differences=_find_class_differences(scan, scored, scored_champion),
        comparison=_compare_candidates(config, predictions, champion_predictions),
        recall=compute_recall(predictions.predictions),
        champion_recall=compute_recall(champion_predictions.predictions)
        if champion_predictions
        else {},
    )
    return CandidateEvaluation(challenger, champion, predictions, champion_predictions, evidence)


@dataclass(frozen=True, slots=True)
class _ScoredModel:
    """An opened model and its scores of the test images."""

    folder: Path
    model: ImageClassifier
    scores: Sequence[ImageScore]

    def collect(self, scan: DatasetScan, rows: NDArray[np.int64]) -> ImagePredictions:
        """Return the predictions for the images in `rows`."""
        return collect_predictions(scan, rows, self.model.classes, self.scores)


def _score_version(version: ModelVersion, device: torch.device, scan: DatasetScan) -> _ScoredModel:
    folder = find_model_folder(version.uri)
    model = move_classifier(open_classifier(folder), device)
    return _ScoredModel(folder, model, predict_images(model, scan))


def _compare_candidates(
    config: PromoteConfig,
    challenger_predictions: ImagePredictions,
    champion_predictions: ImagePredictions | None,
) -> PairedComparison | None:
    if champion_predictions is None:
        return None
    resampling = Resampling(
        draws=config.draws, confidence=config.confidence, random_seed=config.random_seed
    )
    return compare_paired(
        config.metric,
        champion_predictions.predictions,
        challenger_predictions.predictions,
        resampling,
    )


def _find_overlaps(
    client: "MlflowClient", scan: DatasetScan, *versions: ModelVersion | None
) -> tuple[Overlap, ...]:
    test_hashes = {file.sha256 for file in scan.files} - {""}
    overlaps = []
    for version in versions:
        if version is None:
            continue
        hashes = read_file_hashes(client, version.origin.run_id)
        count = None if hashes is None else len(test_hashes & hashes[TRAINED_ON])
        overlaps.append(Overlap(f"version {version.number}", count))
    return tuple(overlaps)


def _find_class_differences(
    scan: DatasetScan, challenger: _ScoredModel, champion: _ScoredModel | None
) -> tuple[str, ...]:
    known, labelled = set(challenger.model.classes), set(scan.images.classes)
    differences = [("the challenger lacks, though the test data has it", labelled - known)]
    if champion is not None:
        champion_classes = set(champion.model.classes)
        differences += [
            ("only the challenger knows", known - champion_classes),
            ("only the champion knows", champion_classes - known),
        ]
    return tuple(f"{text}: {', '.join(sorted(names))}" for text, names in differences if names)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _measure_latency_ms(model: ImageClassifier, scan: DatasetScan) -> float:
    """Return the median time from the bytes of one image to its probabilities.

    This is correct on a GPU too: `score_images` returns after the GPU has finished.
    """
    contents = [data for data in read_contents(scan.images) if data is not None][:_LATENCY_IMAGES]
    seconds = []
    for data in contents[:_WARM_UP_IMAGES] + contents:
        started = time.perf_counter()
        list(score_images(model, [data]))
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP_IMAGES:] or [float("nan")])


def log_evidence(run: TrackedRun, scan: DatasetScan, evaluation: CandidateEvaluation) -> None:
    """Log the metrics, the tables and the predictions of both versions."""
    figures = _collect_figures(evaluation.evidence)
    log_metrics(run, figures, scan, evaluation.challenger.origin.model_id)
    log_tables(run, evaluation.challenger_predictions.predictions)
    log_predictions(run, evaluation.challenger_predictions)
    if evaluation.champion and evaluation.champion_predictions:
        log_predictions(run, evaluation.champion_predictions, name=_CHAMPION_PREDICTIONS)
        metrics = compute_metrics(evaluation.champion_predictions.predictions)
        figures = {f"champion_{metric}": value for metric, value in metrics.items()}
        log_metrics(run, figures, scan, evaluation.champion.origin.model_id)


def _collect_figures(evidence: Evidence) -> dict[str, float]:
    figures = dict(evidence.metrics) | {"size_mb": evidence.size_mb}
    if evidence.latency_ms is not None:
        figures["latency_ms"] = evidence.latency_ms
    if (comparison := evidence.comparison) is not None:
        figures |= {
            "difference": comparison.difference,
            "difference_low": comparison.low,
            "difference_high": comparison.high,
            "mcnemar_p": comparison.mcnemar_p,
        }
    return figures
