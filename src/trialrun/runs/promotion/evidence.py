"""The evidence for a promotion: predictions of all compared versions on the test images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trialrun.config.promote import METRICS, PromoteConfig
from trialrun.engine.compute.device import find_device
from trialrun.errors import InvalidParameterError
from trialrun.image_cache.perceptual_hash import PerceptualHashes
from trialrun.images.scanning.scan import DatasetScan
from trialrun.registry.gates import Evidence
from trialrun.registry.versions import ModelVersion
from trialrun.report.abstention import measure_answers
from trialrun.report.intervals import Interval, compute_interval
from trialrun.report.metrics import LOG_LOSS, compute_metrics, compute_recall
from trialrun.report.paired import PairedComparison, compare_paired
from trialrun.runs.evaluation.candidates import (
    Candidate,
    describe_scores,
    open_candidate,
)
from trialrun.runs.evaluation.groups import ImageGroups, group_images
from trialrun.runs.evaluation.logging import log_class_metrics, log_metrics
from trialrun.runs.evaluation.overlaps import (
    TrainingImages,
    count_overlaps,
    read_training_images,
)
from trialrun.runs.evaluation.predictions import (
    ImagePredictions,
    collect_predictions,
    find_readable_rows,
    log_predictions,
)
from trialrun.runs.evaluation.tables import log_tables
from trialrun.runs.promotion.baseline import CHAMPION_PREFIX
from trialrun.scoring.scores import ScoredImages
from trialrun.tracking import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MAX_ALIKE_SHARE = 0.05  # of the test images; more suggest series of images of the same things


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The versions of a promotion; `champion` and `baseline` are None if there is none."""

    challenger: ModelVersion
    champion: ModelVersion | None = None
    baseline: ModelVersion | None = None

    def list_all(self) -> list[ModelVersion]:
        """Return the versions that exist, the challenger first."""
        versions = (self.challenger, self.champion, self.baseline)
        return [version for version in versions if version is not None]


@dataclass(frozen=True, slots=True)
class VersionPredictions:
    """The predictions of one version on the test images."""

    version: ModelVersion
    candidate: Candidate
    scored: ScoredImages
    images: ImagePredictions
    hashes: PerceptualHashes | None  # of `images`; None if the model decodes them itself

    def describe(self) -> list[str]:
        """Return what the user should know of the version."""
        return describe_scores(str(self.version), self.candidate, self.scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvaluation:
    """The predictions of all versions on the same images; `evidence` is computed from them."""

    challenger: VersionPredictions
    champion: VersionPredictions | None
    evidence: Evidence
    notes: tuple[str, ...] = ()

    def champion_metrics(self) -> dict[str, float]:
        """Return the champion's metrics; empty without a champion."""
        return compute_metrics(self.champion.images.predictions) if self.champion else {}


def evaluate_candidates(
    client: "MlflowClient",
    config: PromoteConfig,
    scan: DatasetScan,
    versions: Versions,
    count_attempt: Callable[[ImagePredictions], tuple[int, float]],
) -> CandidateEvaluation:
    """Predict the images of `scan` with all versions and collect the evidence.

    `count_attempt` returns the number of the attempt on these images and the confidence level that
    its intervals need.

    Raises:
        TrialrunError: A model cannot be downloaded or opened, or no image can be read.
    """
    models = _predict_with_all(config, scan, versions.list_all())
    compared = _ComparedVersions(
        challenger=models[versions.challenger],
        champion=models[versions.champion] if versions.champion else None,
        baseline=models[versions.baseline] if versions.baseline else None,
    )
    images = compared.challenger.images
    groups = group_images(images.sha256, images.groups, _find_hashes(models.values()))
    attempt, confidence = count_attempt(images)
    evidence = _compute_evidence(config, compared, groups, confidence)
    training = read_training_images(client, versions.list_all())
    return CandidateEvaluation(
        challenger=compared.challenger,
        champion=compared.champion,
        evidence=replace(
            evidence,
            attempt=attempt,
            latency_ms=_measure_latency_ms(config, compared.challenger, scan),
            overlaps=count_overlaps(scan, training),
            class_differences=_find_class_differences(scan, compared),
            dependences=_find_dependences(training, images, groups),
        ),
        notes=tuple(note for model in models.values() for note in model.describe()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ComparedVersions:
    """The predictions of the challenger and of the versions that it is compared with."""

    challenger: VersionPredictions
    champion: VersionPredictions | None
    baseline: VersionPredictions | None


def _compute_evidence(
    config: PromoteConfig, compared: _ComparedVersions, groups: ImageGroups, confidence: float
) -> Evidence:
    """Compute the part of the evidence that follows from the predictions and the model's folder."""
    challenger, champion, baseline = compared.challenger, compared.champion, compared.baseline
    predictions = challenger.images.predictions

    def compare_with(other: VersionPredictions | None) -> PairedComparison | None:
        if other is None:
            return None
        return compare_paired(
            config.metric,
            other.images.predictions,
            predictions,
            confidence=confidence,
            groups=groups.groups,
        )

    return Evidence(
        metrics=compute_metrics(predictions),
        size_mb=challenger.candidate.compute_size_mb(),
        intervals={
            metric: compute_interval(metric, predictions, confidence, groups.groups)
            for metric in METRICS
        },
        answers=_measure_answers(challenger, confidence),
        comparison=compare_with(champion),
        baseline=compare_with(baseline),
        baseline_name=f"version {baseline.version.number}" if baseline else "",
        recall=compute_recall(predictions),
        champion_recall=compute_recall(champion.images.predictions) if champion else {},
        class_sizes=_count_units(challenger.images, groups),
        has_groups=groups.is_named,
    )


def _measure_answers(
    challenger: VersionPredictions, level: float
) -> dict[str, tuple[float, Interval]]:
    """Return the coverage and the error of the answers; empty if the version always answers."""
    predictions, threshold = challenger.images.predictions, challenger.candidate.read_threshold()
    if not threshold or predictions.confidence is None:
        return {}
    return measure_answers(predictions.confidence, predictions.right, threshold, level)


def _measure_latency_ms(
    config: PromoteConfig, challenger: VersionPredictions, scan: DatasetScan
) -> float | None:
    """Return the latency if it has a limit."""
    return None if config.max_latency_ms is None else challenger.candidate.measure_latency_ms(scan)


def _predict_with_all(
    config: PromoteConfig, scan: DatasetScan, versions: Sequence[ModelVersion]
) -> dict[ModelVersion, VersionPredictions]:
    """Return the predictions by version, for the images that all versions could read."""
    device = find_device(config.device)
    scored: dict[ModelVersion, tuple[Candidate, ScoredImages, PerceptualHashes | None]] = {}
    for version in dict.fromkeys(versions):
        candidate = open_candidate(version.uri, device, allow_model_code=config.allow_model_code)
        images, hashes = candidate.score(scan)
        _check_probabilities(config, version, images)
        scored[version] = candidate, images, hashes
    rows = find_readable_rows(scan, *(images for _, images, _ in scored.values()))
    return {
        version: VersionPredictions(
            version,
            candidate,
            images,
            collect_predictions(scan, rows, images),
            None if hashes is None else hashes[rows],
        )
        for version, (candidate, images, hashes) in scored.items()
    }


def _check_probabilities(
    config: PromoteConfig, version: ModelVersion, scored: ScoredImages
) -> None:
    """Raise if a gate needs the probabilities of a version that returns only labels.

    Raises:
        InvalidParameterError: The metric or a minimum is log_loss.
    """
    needed = {config.metric, *config.minimums(), *config.estimate_minimums()}
    if LOG_LOSS in needed and not scored.has_probabilities:
        raise InvalidParameterError(
            f"{version} returns only labels, and log_loss needs probabilities",
            "Choose another metric, or register a model that returns probabilities.",
        )


def _find_hashes(models: Iterable[VersionPredictions]) -> PerceptualHashes | None:
    """Return the perceptual hashes from the first model that trialrun decodes the images for."""
    return next((model.hashes for model in models if model.hashes is not None), None)


def _find_class_differences(scan: DatasetScan, compared: _ComparedVersions) -> tuple[str, ...]:
    """Describe the classes that a model or the test set lacks."""
    known, labelled = set(compared.challenger.scored.classes), set(scan.images.classes)
    champion_classes = set(compared.champion.scored.classes) if compared.champion else known
    differences = (
        ("the challenger lacks, though the test data has it", labelled - known),
        ("only the challenger knows", known - champion_classes),
        ("only the champion knows", champion_classes - known),
        ("without test images", (known | champion_classes) - labelled),
    )
    return tuple(f"{text}: {', '.join(sorted(names))}" for text, names in differences if names)


def _count_units(images: ImagePredictions, groups: ImageGroups) -> dict[str, int]:
    """Return the number of images, or of named groups, with each label."""
    predictions = images.predictions
    units = groups.groups if groups.is_named and groups.groups is not None else None
    rows = np.arange(len(predictions)) if units is None else units
    return {
        name: len(np.unique(rows[predictions.labels == index]))
        for index, name in enumerate(predictions.classes)
        if (predictions.labels == index).any()
    }


def _find_dependences(
    training: Mapping[ModelVersion, TrainingImages | None],
    images: ImagePredictions,
    groups: ImageGroups,
) -> tuple[str, ...]:
    """Return the reasons to believe that the test images need groups."""
    reasons = [
        f"version {version.number} was trained on grouped images"
        for version, trained in training.items()
        if trained is not None and trained.has_groups
    ]
    if groups.num_alike > _MAX_ALIKE_SHARE * len(images.predictions):
        reasons.append(f"{groups.num_alike} test images are copies of others or look like them")
    return tuple(reasons)


def log_evidence(run: TrackedRun, scan: DatasetScan, evaluation: CandidateEvaluation) -> None:
    """Log the metrics, the tables and the predictions of challenger and champion."""
    challenger, champion = evaluation.challenger, evaluation.champion
    figures = _collect_figures(evaluation.evidence)
    log_metrics(run, figures, scan, challenger.version.origin.model_id)
    log_class_metrics(run, challenger.images.predictions, scan, challenger.version.origin.model_id)
    log_tables(run, challenger.images.predictions)
    log_predictions(run, challenger.images)
    if champion is not None:
        log_predictions(run, champion.images, name=f"{CHAMPION_PREFIX}predictions.parquet")
        metrics = evaluation.champion_metrics()
        figures = {CHAMPION_PREFIX + metric: value for metric, value in metrics.items()}
        log_metrics(run, figures, scan, champion.version.origin.model_id)
        log_class_metrics(
            run,
            champion.images.predictions,
            scan,
            champion.version.origin.model_id,
            prefix=CHAMPION_PREFIX,
        )


def _collect_figures(evidence: Evidence) -> dict[str, float]:
    figures = dict(evidence.metrics) | {"size_mb": evidence.size_mb, "attempt": evidence.attempt}
    for metric, interval in evidence.intervals.items():
        figures |= {f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    for metric, (value, interval) in evidence.answers.items():
        figures |= {metric: value, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    if evidence.latency_ms is not None:
        figures["latency_ms"] = evidence.latency_ms
    for prefix, comparison in (("", evidence.comparison), ("baseline_", evidence.baseline)):
        if comparison is not None:
            figures |= {
                f"{prefix}difference": comparison.difference,
                f"{prefix}difference_low": comparison.low,
                f"{prefix}difference_high": comparison.high,
            }
    if evidence.comparison is not None and evidence.comparison.mcnemar_p is not None:
        figures["mcnemar_p"] = evidence.comparison.mcnemar_p
    return figures
