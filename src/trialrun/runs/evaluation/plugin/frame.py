"""Evaluation of a model, or of stored predictions, on the images of a data frame.

The data have a column of images, as bytes or as base64 text, and a column of labels.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trialrun.config import build_config
from trialrun.config.evaluate import EvaluateConfig
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidParameterError, TrialrunError
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.registry.pins import find_pinned_folder
from trialrun.report.document import ReportData, build_report
from trialrun.report.predictions import Predictions, build_predictions
from trialrun.runs.evaluation.groups import group_images
from trialrun.runs.evaluation.plugin.labels import name_labels, parse_answers, read_classes
from trialrun.runs.evaluation.plugin.results import store_results
from trialrun.runs.evaluation.predictions import ImagePredictions
from trialrun.runs.evaluation.report import PICTURE_SIZE, collect_mistakes
from trialrun.runs.scoring.classes import describe_unknown_classes
from trialrun.serving.foreign.outputs import OutputError
from trialrun.serving.inputs import IMAGE_COLUMN, extract_images

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import EvaluationResult

_logger = logging.getLogger("mlflow.trialrun")  # below MLflow's, which shows warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings:
    """What `evaluator_config` sets; other keys are for other evaluators."""

    confidence: float
    image_column: str
    group_column: str | None
    metric_prefix: str


def read_settings(values: Mapping[str, Any]) -> FrameSettings:
    """Return the settings of `evaluator_config`.

    Raises:
        InvalidParameterError: `confidence` is not a level of 0.5 or more.
    """
    given = {"confidence": values["confidence"]} if "confidence" in values else {}
    group_column = values.get("group_column")
    return FrameSettings(
        confidence=build_config(EvaluateConfig, given).confidence,
        image_column=str(values.get("image_column", IMAGE_COLUMN)),
        group_column=None if group_column is None else str(group_column),
        metric_prefix=str(values.get("metric_prefix") or ""),
    )


@isolate_torch_state()
def evaluate_frame(
    dataset: Any,
    run_id: str,
    config: Mapping[str, Any],
    *,
    model: Any = None,
    model_id: str | None = None,
    column: str | None = None,
) -> "EvaluationResult":
    """Evaluate a model, or the predictions in the data, and store the report with a run.

    MLflow calls every evaluator that is installed unless the user names some: data without images
    are left to the others.

    Args:
        dataset: MLflow's `EvaluationDataset`.
        run_id: The run that gets metrics and artifacts.
        config: See `FrameSettings`.
        model: A pyfunc model; None for predictions in the data.
        model_id: MLflow's id of the model, if it has one.
        column: The column of labels in the model's output.

    Raises:
        MlflowException: The data, the settings or the model's output cannot be used.
    """
    from mlflow.models import EvaluationResult

    with _translate_errors():
        settings = read_settings(config)
        frame = _find_frame(dataset, settings)
        if frame is None:
            return EvaluationResult(metrics={}, artifacts={}, run_id=run_id)
        images, has_probabilities = _predict(dataset, frame, settings, model, column)
        data = _build_report_data(dataset, frame, images, settings, (model, model_id))
        return store_results(
            build_report(data),
            images,
            run_id,
            dataset=dataset,
            model_id=model_id,
            prefix=settings.metric_prefix,
            has_probabilities=has_probabilities,
        )


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise trialrun's errors as MLflow's, with what to do."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except OutputError as error:
        text = f"the model {error}. {error.hint}"
        raise MlflowException.invalid_parameter_value(text) from error
    except TrialrunError as error:
        text = f"{error}. {error.hint}".rstrip()
        raise MlflowException.invalid_parameter_value(text) from error


def _find_frame(dataset: Any, settings: FrameSettings) -> "pd.DataFrame | None":
    """Return the data without labels and predictions; None, with a warning, if it has no images."""
    import pandas as pd

    frame = dataset.features_data
    if isinstance(frame, pd.DataFrame) and settings.image_column in frame.columns:
        return frame.reset_index(drop=True)  # models return rows by number
    _logger.warning(
        "The evaluator trialrun evaluates nothing: the data have no column %r of images.",
        settings.image_column,
    )
    return None


def _predict(
    dataset: Any,
    frame: "pd.DataFrame",
    settings: FrameSettings,
    model: Any,
    column: str | None,
) -> tuple[ImagePredictions, bool]:
    """Return the predictions for all rows, and whether the probabilities are known."""
    declared = read_classes(model)
    labels = name_labels(dataset.labels_data, declared)
    groups = _read_groups(frame, settings.group_column)
    features = frame.drop(columns=[settings.group_column] if groups else [])
    output = dataset.predictions_data if model is None else model.predict(features)
    if output is None:
        raise InvalidParameterError(
            "there is neither a model nor a column of predictions",
            "Give mlflow.models.evaluate a model, or the name of a column as predictions.",
        )
    answers = parse_answers(output, len(frame), declared, column)
    unknown = Counter(label for label in labels if label not in answers.classes)
    for line in describe_unknown_classes(unknown) if answers.is_complete else ():
        _logger.warning("%s", line)
    predictions = build_predictions(labels, answers.classes, answers.probabilities)
    if not answers.has_probabilities:
        predictions = replace(predictions, confidence=None, in_top5=None)
    names = tuple(f"row {row}" for row in range(len(frame)))
    contents = _read_contents(frame, settings)
    hashes = tuple(hashlib.sha256(data).hexdigest() if data else "" for data in contents)
    return ImagePredictions(names, hashes, predictions, groups), answers.has_probabilities


def _read_groups(frame: "pd.DataFrame", column: str | None) -> tuple[str | None, ...]:
    if column is None:
        return ()
    if column not in frame.columns:
        raise InvalidParameterError(
            f"group_column={column}: the data have no such column",
            f"Their columns are {', '.join(map(str, frame.columns))}.",
        )
    missing = frame[column].isna()
    return tuple(
        None if is_missing else str(value)
        for value, is_missing in zip(frame[column], missing, strict=True)
    )


def _read_contents(frame: "pd.DataFrame", settings: FrameSettings) -> list[bytes | None]:
    """Return the content of each image file; None for a cell without one."""
    images, _ = extract_images({IMAGE_COLUMN: frame[settings.image_column]})
    return [data if isinstance(data, bytes) else None for data in images]


def _build_report_data(
    dataset: Any,
    frame: "pd.DataFrame",
    images: ImagePredictions,
    settings: FrameSettings,
    origin: tuple[Any, str | None],
) -> ReportData:
    """Return what the report shows; `origin` are the model and its id."""
    model, model_id = origin
    name = _name_model(model, model_id)
    predictions = images.predictions
    classifier = _open_own(model, model_id)
    contents = _read_contents(frame, settings)
    preprocessing = classifier.preprocessing if classifier else Preprocessing(PICTURE_SIZE)
    in_top5 = predictions.in_top5

    def load_pixels(position: int) -> Tensor | None:
        return _decode(preprocessing, contents[position])

    return ReportData(
        title=f"{name} on {dataset.name}",
        predictions=predictions,
        top5_accuracy=None if in_top5 is None else float(in_top5.mean()),
        mistakes=collect_mistakes(images, load_pixels, classifier),
        facts=_list_facts(name, dataset, predictions),
        level=settings.confidence,
        groups=group_images(images.sha256, images.groups).groups,
    )


def _list_facts(name: str, dataset: Any, predictions: Predictions) -> Sequence[tuple[str, str]]:
    facts = [("model", name), ("data", str(dataset.name)), ("digest", str(dataset.digest))]
    if predictions.confidence is None:
        facts.append(("probabilities", "not known: the log loss counts each label as certain"))
    return facts


def _name_model(model: Any, model_id: str | None) -> str:
    if model_id is not None:
        return f"models:/{model_id}"
    return "predictions in the data" if model is None else "a model that MLflow does not store"


def _open_own(model: Any, model_id: str | None) -> ImageClassifier | None:
    """Return the network of a model of trialrun, for the pictures; None for other models."""
    flavors = getattr(getattr(model, "metadata", None), "flavors", None) or {}
    if model_id is None or "trialrun" not in flavors:
        return None
    return open_classifier(find_pinned_folder(f"models:/{model_id}"))


def _decode(preprocessing: Preprocessing, data: bytes | None) -> Tensor | None:
    """Return the (3, S, S) uint8 pixels of an image; None if it cannot be read."""
    if data is None:
        return None
    try:
        return preprocessing.decode(data)
    except UndecodableError:
        return None
