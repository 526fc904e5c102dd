"""Scoring with an MLflow model that another program logged."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.errors import InvalidModelDirectoryError, TrialrunError, summarize_error
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.scanning.thread_pool import TIMEOUT_REASON, count_threads, map_in_order
from trialrun.scoring.scores import ScoredImages
from trialrun.serving.foreign.code import ModelCode
from trialrun.serving.foreign.inputs import ImageInput, SignatureError, choose_input
from trialrun.serving.foreign.metadata import list_requirement_notes, read_metadata
from trialrun.serving.foreign.outputs import BatchAnswers, OutputError, parse_output
from trialrun.serving.foreign.scores import ScoreCollector

_BATCH_IMAGES = 32
_MAX_ERROR_LENGTH = 300
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A loaded MLflow model that takes images.

    `declared_classes` are those of the MLmodel's metadata, or None. All classes of a model that
    does not declare any are known only from `ScoredImages`; for one that returns only labels, they
    are the labels that it returned. `notes` are about its requirements.
    """

    name: str
    declared_classes: tuple[str, ...] | None
    notes: tuple[str, ...]
    _input: ImageInput
    _code: ModelCode
    _pyfunc: Any
    _device: torch.device

    def score_images(self, contents: Iterable[bytes | None]) -> ScoredImages:
        """Score images in batches; None is an image that could not be read.

        Images that cannot be decoded have a score with the reason. The memory that this takes does
        not depend on the number of images, except for their scores.

        Raises:
            InvalidModelDirectoryError: The model's code fails, or its answers cannot be used.
            OutOfMemoryError: A batch does not fit in memory.
        """
        predictor, collector = _Predictor(self), ScoreCollector()
        prepared = map_in_order(
            partial(_prepare_image, self._input),
            contents,
            threads=count_threads(),
            on_timeout=lambda _: _Unreadable(TIMEOUT_REASON),
        )
        for batch in _group_batches(prepared, predictor):
            with self._translate_output_errors():
                _score_batch(batch, predictor, collector)
        return collector.build(self.declared_classes)

    def run_predict(self, images: Sequence[Any]) -> Any:
        """Return the output of the model's `predict` for prepared images.

        Raises:
            InvalidModelDirectoryError: The model's code fails.
        """
        with _translate_code_errors(f"{self.name}: predict failed", self._device):
            batch = self._input.assemble(images)
            with self._code.activate():
                return self._pyfunc.predict(batch)

    @contextmanager
    def _translate_output_errors(self) -> Iterator[None]:
        try:
            yield
        except OutputError as error:
            raise InvalidModelDirectoryError(f"{self.name} {error}", error.hint) from error

    @property
    def fixed_batch_size(self) -> int | None:
        """The only batch size that the signature allows, or None."""
        return self._input.batch_size


def open_foreign_model(
    folder: Path, *, name: str, device: torch.device | None = None
) -> ForeignModel:
    """Load an MLflow model. THIS RUNS CODE of the model: call `check_code_allowed` first.

    `name` is what error messages call the model. `device` applies to PyTorch models; MLflow chooses
    the device of others.

    Raises:
        InvalidModelDirectoryError: The folder has no MLflow model, the model takes something else
            than images, or its code fails.
    """
    import mlflow

    folder = folder.resolve()
    metadata = read_metadata(folder, name=name)
    try:
        image_input = choose_input(metadata.inputs)
    except SignatureError as error:
        raise InvalidModelDirectoryError(f"{name} {error}", error.hint) from error
    code = ModelCode(folder, metadata.code_folders)
    with (
        _translate_code_errors(f"{name} cannot be loaded", device or _CPU),
        _use_prediction_device(device if "pytorch" in metadata.flavors else None),
        code.activate(),
        warnings.catch_warnings(record=True) as caught,
    ):
        pyfunc = mlflow.pyfunc.load_model(str(folder), suppress_warnings=True)
    notes = (*list_requirement_notes(folder, name=name), *_list_warning_notes(caught, name))
    return ForeignModel(name, metadata.classes, notes, image_input, code, pyfunc, device or _CPU)


def _list_warning_notes(caught: list[warnings.WarningMessage], name: str) -> list[str]:
    """Return the warnings of libraries; MLflow's are advice for the author of a model."""
    import mlflow

    mlflow_folder = Path(mlflow.__file__).parent
    texts = [
        f"{name} warns: {str(warning.message).strip().splitlines()[0]}"
        for warning in caught
        if not Path(warning.filename).is_relative_to(mlflow_folder) and str(warning.message).strip()
    ]
    return list(dict.fromkeys(texts))


@contextmanager
def _translate_code_errors(failure: str, device: torch.device) -> Iterator[None]:
    """Translate every error of a model's code, including `sys.exit`."""
    try:
        with translate_scoring_errors(device):
            yield
    except TrialrunError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {summarize_error(error)}"[:_MAX_ERROR_LENGTH]
        raise InvalidModelDirectoryError(
            f"{failure}: {reason}",
            "Install the packages in the model's requirements.txt, and test its predict in Python.",
        ) from error


@contextmanager
def _use_prediction_device(device: torch.device | None) -> Iterator[None]:
    """Set the device on which MLflow's PyTorch flavor loads a model."""
    from mlflow.environment_variables import MLFLOW_DEFAULT_PREDICTION_DEVICE as PREDICTION_DEVICE

    before = os.environ.get(PREDICTION_DEVICE.name)
    if device is not None:
        os.environ[PREDICTION_DEVICE.name] = str(device)
    try:
        yield
    finally:
        os.environ.pop(PREDICTION_DEVICE.name, None)
        if before is not None:
            os.environ[PREDICTION_DEVICE.name] = before


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """The reason why an image has no score."""

    reason: str


def _prepare_image(image_input: ImageInput, data: bytes | None) -> Any:
    """Return the model's form of an image, or `_Unreadable`."""
    if data is None:
        return _Unreadable("cannot be read")
    try:
        return image_input.prepare(data)
    except UndecodableError as error:
        return _Unreadable(str(error))


@dataclass(slots=True)
class _Predictor:
    """Predicts in batches, or image by image if the model's code refuses the first batch.

    torch.export fixes the batch size at 1 if the input example has one image; the signature does
    not show this.
    """

    model: ForeignModel
    batch_size: int = field(init=False)
    _is_first: bool = True

    def __post_init__(self) -> None:
        self.batch_size = self.model.fixed_batch_size or _BATCH_IMAGES

    def predict(self, images: Sequence[Any]) -> list[BatchAnswers]:
        """Return the answers to at most `batch_size` images, in order.

        Raises:
            InvalidModelDirectoryError: The model's code fails.
            OutputError: Its output cannot be used.
        """
        may_retry = self._is_first and len(images) > 1 and not self.model.fixed_batch_size
        self._is_first = False
        try:
            output = self._run(images)
        except InvalidModelDirectoryError:
            if not may_retry:
                raise
            self.batch_size = 1
            return [self._parse(self._run([image]), 1) for image in images]
        return [self._parse(output, len(images))]

    def _run(self, images: Sequence[Any]) -> Any:
        """Predict; fill a batch of fixed size up with copies of its last image."""
        num_missing = (self.model.fixed_batch_size or len(images)) - len(images)
        return self.model.run_predict([*images, *[images[-1]] * num_missing])

    def _parse(self, output: Any, num_images: int) -> BatchAnswers:
        num_rows = self.model.fixed_batch_size or num_images
        return parse_output(output, num_rows, self.model.declared_classes).take(num_images)


def _group_batches(prepared: Iterable[Any], predictor: _Predictor) -> Iterator[list[Any]]:
    """Yield lists with at most as many readable images as the predictor takes at once."""
    batch: list[Any] = []
    num_readable = 0
    for image in prepared:
        batch.append(image)
        num_readable += not isinstance(image, _Unreadable)
        is_long = len(batch) >= 2 * max(predictor.batch_size, _BATCH_IMAGES)  # many unreadable
        if num_readable >= predictor.batch_size or is_long:
            yield batch
            batch, num_readable = [], 0
    if batch:
        yield batch


def _score_batch(batch: list[Any], predictor: _Predictor, collector: ScoreCollector) -> None:
    """Predict the readable images of a batch and collect all its images in order."""
    readable = [image for image in batch if not isinstance(image, _Unreadable)]
    answers = predictor.predict(readable) if readable else []
    reasons = [image.reason if isinstance(image, _Unreadable) else "" for image in batch]
    collector.add_batch(reasons, answers)
