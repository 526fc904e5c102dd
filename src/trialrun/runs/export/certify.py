"""Certification: the fastest engine that predicts as well as torch in fp32, as a new version."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trialrun.config.engines import OPENVINO_INT8, TORCH_FP32
from trialrun.config.export import ExportConfig
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidParameterError, PromotionRefusedError
from trialrun.files import format_json
from trialrun.images.scanning.scan import DatasetScan
from trialrun.mlflow_client import connect_client
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import StoredModel
from trialrun.models.weights.serialization import serialize_state
from trialrun.registry import format_run_address
from trialrun.registry.versions import find_origin, link_models
from trialrun.report.markdown import escape_markdown
from trialrun.report.model_card import ModelCard
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.evaluation.derived_versions import (
    check_overlaps,
    choose_name,
    record_used_images,
    register_derived,
)
from trialrun.runs.evaluation.logging import log_dataset
from trialrun.runs.evaluation.predictions import find_readable_rows, open_labelled_data
from trialrun.runs.export.candidates import (
    EngineCandidate,
    EngineSpeed,
    build_candidates,
    choose_engines,
    measure_speeds,
    open_source_model,
)
from trialrun.runs.export.images import sample_files
from trialrun.runs.export.judgement import EngineJudgement, judge_engine
from trialrun.runs.export.overlaps import find_overlaps, hash_all
from trialrun.runs.scoring.images import read_contents
from trialrun.scoring.network import ScoringNetwork, TorchNetwork
from trialrun.scoring.pipeline import score_images
from trialrun.scoring.scores import ScoredImages
from trialrun.tracking import TrackedRun, open_run

_KIND = "engine"
_TIMED_IMAGES = 16


@dataclass(frozen=True, slots=True)
class EngineRow:
    """An engine's speed and judgement; both are None if it could not be built."""

    engine: str
    speed: EngineSpeed | None = None
    judgement: EngineJudgement | None = None
    problem: str = ""

    @property
    def is_certified(self) -> bool:
        """Whether it is faster than torch in fp32 and passed its gates."""
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "engine": self.engine,
            **(self.speed.to_json() if self.speed else {}),
            **(self.judgement.to_json() if self.judgement else {}),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Certification:
    """All engines in the order of their speed, and the version of the fastest that passed."""

    rows: tuple[EngineRow, ...]
    run_id: str
    num_images: int
    chosen: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    model_uri: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "rows"}
        return {**values, "engines": [row.to_json() for row in self.rows]}

    def raise_if_refused(self) -> None:
        """Raise if no engine passed.

        Raises:
            PromotionRefusedError: Names the reason of each engine.
        """
        if self.chosen is None:
            reasons = "; ".join(f"{row.engine}: {row.problem}" for row in self.rows)
            raise PromotionRefusedError(
                f"no engine is certified: {reasons}",
                "Give more test images, or score with torch in fp32.",
            )


@isolate_torch_state()
def certify_engine(
    model: str, config: ExportConfig, callback: RunCallback | None = None
) -> Certification:
    """Register the fastest engine that passes the gates as a new version.

    The result names no version if none passed, so that the caller can show the table.

    Raises:
        TrialrunError: Settings, model, data or MLflow fail (see its subclasses).
    """
    callback = callback or NoOpCallback()
    assert config.engine is not None
    if config.test is None:
        raise InvalidParameterError("an engine needs labelled test images", "Give --test.")
    engines = choose_engines(config.engine, config.data is not None)
    client = connect_client()
    name = choose_name(client, model, config.register)
    origin = find_origin(client, model)
    stored = open_source_model(model)
    classifier = stored.build_classifier()
    scan = open_labelled_data(config.test)
    calibration = _sample_calibration(config, engines)
    overlaps = find_overlaps(client, scan, model, origin, calibration)
    refusal = "no engine is certified"
    for note in check_overlaps(overlaps, refusal=refusal, is_allowed=config.allow_overlap):
        callback.on_note(note)
    tags = {"trialrun.kind": _KIND, "trialrun.model": model}
    with open_run(client, experiment=config.experiment, name=config.run_name, tags=tags) as run:
        callback.on_run_start(run.name, run.run_id)
        run.log_params(config.params() | {"model": model})
        link_models(client, run.run_id, [origin.model_id])
        log_dataset(run, scan)
        candidates = build_candidates(classifier, engines, calibration, callback.on_note)
        rows, num_images = _judge_candidates(classifier, candidates, scan, config)
        result = Certification(rows, run.run_id, num_images)
        if best := next((row for row in rows if row.is_certified), None):
            (candidate,) = (item for item in candidates if item.engine == best.engine)
            result = _register(run, stored, candidate, best, result, name, model)
            is_calibrated = best.engine == OPENVINO_INT8
            record_used_images(run, origin, hash_all(calibration) if is_calibrated else ())
        run.log_text("engines.json", format_json(result.to_json()))
    return result


def _sample_calibration(config: ExportConfig, engines: Sequence[str]) -> list[bytes]:
    """Return the images that calibrate int8; none if no engine needs them."""
    if config.data is None or OPENVINO_INT8 not in engines:
        return []
    return sample_files(config.data, config.calibration_images)


def _judge_candidates(
    classifier: ImageClassifier,
    candidates: Sequence[EngineCandidate],
    scan: DatasetScan,
    config: ExportConfig,
) -> tuple[tuple[EngineRow, ...], int]:
    """Return a row per engine, fastest first, and the number of test images."""
    reference = _score(TorchNetwork(classifier, torch.device("cpu")), scan)
    networks = {item.engine: item.network for item in candidates if item.network is not None}
    scored = {name: _score(network, scan) for name, network in networks.items()}
    readable = find_readable_rows(scan, reference)
    labels = [str(scan.images.items[row].label) for row in readable]
    expected = _stack(reference, readable)
    problems = {item.engine: item.problem for item in candidates if item.network is None}
    problems |= {name: _describe_failures(scores, readable) for name, scores in scored.items()}
    num_engines = sum(not problem for problem in problems.values())
    speeds = measure_speeds(classifier, candidates, _read_timed_files(scan))
    rows = []
    for name, problem in problems.items():
        if problem:
            rows.append(EngineRow(name, speeds.get(name), problem=problem))
            continue
        found = _stack(scored[name], readable)
        judgement = judge_engine(
            name, labels, classifier.classes, expected, found, config, num_engines
        )
        rows.append(_make_row(name, speeds[name], judgement))
    rows.sort(key=lambda row: -row.speed.images_per_second if row.speed else 0.0)
    return tuple(rows), len(labels)


def _read_timed_files(scan: DatasetScan) -> list[bytes]:
    """Return the first test images, with which the engines are timed."""
    contents = islice(read_contents(scan.images), _TIMED_IMAGES)
    return [data for data in contents if data is not None]


def _describe_failures(scored: ScoredImages, rows: NDArray[np.int64]) -> str:
    """Return how many images an engine fails on, and why; empty if none."""
    errors = [error for row in rows if (error := scored.scores[row].error)]
    return f"{len(errors)} images fail: {errors[0]}" if errors else ""


def _make_row(engine: str, speed: EngineSpeed, judgement: EngineJudgement) -> EngineRow:
    problem = "" if judgement.passed else judgement.describe_refusal()
    if not problem and speed.speedup <= 1:
        problem = f"not faster than {TORCH_FP32} on this machine"
    return EngineRow(engine, speed, judgement, problem)


def _score(network: ScoringNetwork, scan: DatasetScan) -> ScoredImages:
    return ScoredImages(network.classes, list(score_images(network, read_contents(scan.images))))


def _stack(scored: ScoredImages, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the (N, C) probabilities of images that were scored without an error."""
    probabilities = [scored.scores[row].probabilities for row in rows]
    return np.stack([row for row in probabilities if row is not None])


def _register(
    run: TrackedRun,
    stored: StoredModel,
    candidate: EngineCandidate,
    row: EngineRow,
    result: Certification,
    name: str,
    model: str,
) -> Certification:
    """Log the model directory with the engine's files and register it.

    It always answers: a threshold of confidence was derived from other probabilities.
    """
    assert stored.state is not None
    version = register_derived(
        run,
        replace(stored.description, engine=row.engine, abstention=None),
        serialize_state(stored.state),
        candidate.files,
        name=name,
        params={"model": model, "engine": row.engine},
        tags=_make_tags(row, stored, model),
        card=_make_card(row, result, model, format_run_address(run.run_id)),
    )
    return replace(
        result,
        chosen=row.engine,
        model_name=name,
        model_version=version.number,
        model_uri=version.model_uri,
    )


def _make_card(row: EngineRow, result: Certification, model: str, address: str) -> ModelCard:
    """Return the card of a certified version, which refers to the card of its source."""
    speed, judgement = row.speed, row.judgement
    assert speed is not None
    assert judgement is not None
    return ModelCard(
        title=f"{model} with the engine {row.engine}",
        summary=f"The model {escape_markdown(model)}, computed by {row.engine} instead of torch in "
        f"fp32: **{speed.speedup:.2f} times** as many images per second, and {judgement.flips} of "
        f"{result.num_images} test images get another label.",
        address=address,
        facts=[
            ("source", f"{model}; see its description for data, results and settings"),
            ("engine", row.engine),
            ("images per second", f"{speed.images_per_second:.4g} where it was certified"),
            ("difference of accuracy", judgement.format_interval()),
            ("largest difference of a probability", f"{judgement.max_difference:.3g}"),
        ],
    )


def _make_tags(row: EngineRow, stored: StoredModel, model: str) -> dict[str, str]:
    assert row.speed is not None
    assert row.judgement is not None
    return {
        "engine": row.engine,
        "engine_images_per_second": f"{row.speed.images_per_second:.4g}",
        "engine_speedup": f"{row.speed.speedup:.3g}",
        "engine_flips": str(row.judgement.flips),
        "engine_interval": row.judgement.format_interval(),
        "engine_source": model,
        "weights_sha256": str(stored.weights_sha256),
        "parity_max_difference": f"{row.judgement.max_difference:.3g}",
    }
