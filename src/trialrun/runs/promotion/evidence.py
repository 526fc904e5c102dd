"""What a version is judged by: its answers on the test images, beside the champion's."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from trialrun.scoring import move_classifier, score_images
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CHAMPION_PREDICTIONS = "champion_predictions.parquet"
_LATENCY_IMAGES, _WARM_UP_IMAGES = 30, 3
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
    """Two versions' answers on the same images, and the evidence they make; one where alone."""

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
    """Have the versions answer the images of `surveyed`.

    Raises:
        TrialrunError: A model cannot be fetched or opened, or no image be read.
    """
    folder = find_model_folder(challenger.uri)
    device = find_device(config.device)
    network = move_classifier(open_classifier(folder), device)
    scores = predict_images(network, scan)
    rival = (
        move_classifier(open_classifier(find_model_folder(champion.uri)), device)
        if champion
        else None
    )
    rival_scores = predict_images(rival, scan) if rival else scores
    rows = find_readable_rows(scan, scores, rival_scores)
    challenger_predictions = collect_predictions(scan, rows, network.classes, scores)
    champion_predictions = (
        collect_predictions(scan, rows, rival.classes, rival_scores) if rival else None
    )
    evidence = Evidence(
        metrics=compute_metrics(challenger_predictions.predictions),
        size_mb=_folder_bytes(folder) / _BYTES_PER_MB,
        latency_ms=_measure_latency_ms(network, scan)
        if config.max_latency_ms is not None
        else None,
        overlaps=_find_overlaps(client, scan, challenger, champion),
        class_differences=_find_class_differences(
            scan, network.classes, rival.classes if rival else None
        ),
        comparison=_compare_candidates(config, challenger_predictions, champion_predictions),
        recall=compute_recall(challenger_predictions.predictions),
        champion_recall=compute_recall(champion_predictions.predictions)
        if champion_predictions
        else {},
    )
    return CandidateEvaluation(
        challenger, champion, challenger_predictions, champion_predictions, evidence
    )


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
    test = {seen.sha256 for seen in scan.files} - {""}
    found = []
    for version in versions:
        if version is None:
            continue
        hashes = read_file_hashes(client, version.origin.run_id)
        count = None if hashes is None else len(test & hashes[TRAINED_ON])
        found.append(Overlap(f"version {version.number}", count))
    return tuple(found)


def _find_class_differences(
    scan: DatasetScan, classes: Sequence[str], rival: Sequence[str] | None
) -> tuple[str, ...]:
    known, labelled = set(classes), set(scan.images.classes)
    told = [("the challenger lacks, though the test data has it", labelled - known)]
    if rival is not None:
        told += [
            ("only the challenger knows", known - set(rival)),
            ("only the champion knows", set(rival) - known),
        ]
    return tuple(f"{what}: {', '.join(sorted(names))}" for what, names in told if names)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _measure_latency_ms(network: ImageClassifier, scan: DatasetScan) -> float:
    """From one image's bytes to its probabilities, the median of a few.

    On a GPU too: `score` returns what the GPU has computed.
    """
    data = [each for each in read_contents(scan.images) if each is not None][:_LATENCY_IMAGES]
    seconds = []
    for each in data[:_WARM_UP_IMAGES] + data:
        started = time.perf_counter()
        list(score_images(network, [each]))
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[_WARM_UP_IMAGES:] or [float("nan")])


def log_evidence(run: TrackedRun, scan: DatasetScan, contest: CandidateEvaluation) -> None:
    """Keep the evidence with `run`: figures, tables and both versions' answers."""
    evidence = contest.evidence
    figures = dict(evidence.metrics) | {"size_mb": evidence.size_mb}
    if evidence.latency_ms is not None:
        figures["latency_ms"] = evidence.latency_ms
    if (found := evidence.comparison) is not None:
        figures |= {
            "difference": found.difference,
            "difference_low": found.low,
            "difference_high": found.high,
            "mcnemar_p": found.mcnemar_p,
        }
    log_metrics(run, figures, scan, contest.challenger.origin.model_id)
    log_tables(run, contest.challenger_predictions.predictions)
    log_predictions(run, contest.challenger_predictions)
    if contest.champion and contest.champion_predictions:
        log_predictions(run, contest.champion_predictions, name=_CHAMPION_PREDICTIONS)
        figures = compute_metrics(contest.champion_predictions.predictions)
        named = {f"champion_{metric}": value for metric, value in figures.items()}
        log_metrics(run, named, scan, contest.champion.origin.model_id)
