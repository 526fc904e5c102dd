"""The result of one epoch and its metrics by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from trialrun.engine.evaluate import EvaluationResult
from trialrun.engine.evaluation_check import EvaluationFault


@dataclass(frozen=True, slots=True)
class EpochResult:
    """The figures of one epoch; epochs count from 1, accuracies are shares from 0 to 1."""

    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float  # of the epoch's last step
    train_images_per_second: float
    data_wait_fraction: float  # share of the training time spent waiting for batches
    epoch_seconds: float
    validation: EvaluationResult
    evaluation_fault: EvaluationFault | None = None
    num_train_images: int | None = None  # counted as they were read; None in earlier checkpoints
    train_image_size: int | None = None  # in pixels; None without progressive_resize

    @property
    def valid_loss(self) -> float:
        """The validation loss, by which epochs are compared."""
        return self.validation.loss

    def metrics(self) -> dict[str, float]:
        """Return the epoch's metrics by the names under which they are logged."""
        values = {
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "valid_loss": self.validation.loss,
            "valid_accuracy": self.validation.accuracy,
            "valid_top5_accuracy": self.validation.top5_accuracy,
            "learning_rate": self.learning_rate,
            "train_images_per_second": self.train_images_per_second,
            "valid_images_per_second": self.validation.images_per_second,
            "data_wait_fraction": self.data_wait_fraction,
            "epoch_seconds": self.epoch_seconds,
            "train_image_size": self.train_image_size,
        }
        return {name: value for name, value in values.items() if value is not None}

    def list_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the predictions for the validation images, by name."""
        return {name: getattr(self.validation, name) for name in _ARRAYS}

    def to_json(self) -> dict[str, Any]:
        """Return all values but the arrays, as plain values."""
        values = asdict(self)
        validation = values["validation"]
        return values | {
            "validation": {name: validation[name] for name in validation.keys() - set(_ARRAYS)}
        }

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> "EpochResult":
        """Return the result that `to_json` and `list_arrays` returned."""
        fault = values["evaluation_fault"]
        parts: dict[str, Any] = {**values["validation"], **arrays}
        replaced = {
            "validation": EvaluationResult(**parts),
            "evaluation_fault": None if fault is None else EvaluationFault(**fault),
        }
        return cls(**{**values, **replaced})


_ARRAYS = ("predicted", "confidence", "label_probability")
