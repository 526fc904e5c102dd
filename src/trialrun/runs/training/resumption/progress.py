"""The progress of a run beside its training state: early stopping, best epoch and events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trialrun.config import TrainConfig
from trialrun.engine.early_stopping import EarlyStopping, EpochStatus
from trialrun.engine.results import EpochResult
from trialrun.models.weights import serialization
from trialrun.runs.training.logging import EventLog


@dataclass(frozen=True, slots=True)
class BestEpoch:
    """The best epoch so far and its weights in CPU memory."""

    status: EpochStatus
    timestamp_ms: int  # with which its metrics were logged
    weights: dict[str, Tensor]

    def serialize(self) -> tuple[bytes, str]:
        """Return the file of the weights, and its sha256."""
        content = serialization.serialize_state(self.weights)
        return content, serialization.hash_weights(content)

    def list_predictions(self) -> dict[str, Tensor]:
        """Return the predictions for the validation images, by name."""
        arrays = self.status.result.list_arrays()
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors, as plain values."""
        status = self.status
        return {
            "result": status.result.to_json(),
            "best_epoch": status.best_epoch,
            "best_valid_loss": status.best_valid_loss,
            "epochs_without_improvement": status.epochs_without_improvement,
            "stop_reason": status.stop_reason,
            "timestamp_ms": self.timestamp_ms,
        }

    @classmethod
    def from_json(
        cls,
        values: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        predictions: Mapping[str, Tensor],
    ) -> "BestEpoch":
        """Return the epoch of which `to_json` and `list_predictions` returned the rest."""
        fields = dict(values)
        arrays = {name: tensor.numpy() for name, tensor in predictions.items()}
        timestamp_ms = fields.pop("timestamp_ms")
        result = EpochResult.from_json(fields.pop("result"), arrays)
        return cls(EpochStatus(result=result, **fields), timestamp_ms, dict(weights))


@dataclass(slots=True)
class RunProgress:
    """The progress of a run after the last epoch.

    `epochs` are the metrics of each epoch, the first epoch's first.
    """

    stopping: EarlyStopping
    events: EventLog = field(default_factory=EventLog)
    best: BestEpoch | None = None
    stopped_epoch: int = 0
    has_noted_fault: bool = False
    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def stop_reason(self) -> str | None:
        """Why training ended; None until then."""
        return self.stopping.stop_reason

    def add_epoch(
        self, status: EpochStatus, timestamp_ms: int, weights: Mapping[str, Tensor]
    ) -> None:
        """Add an epoch; `weights` are copied if it is the best so far.

        After the first one, tensors that have not changed since may be missing.
        """
        self.stopped_epoch = status.result.epoch
        if status.is_best:
            reused = self.best.weights if self.best else {}
            self.best = BestEpoch(status, timestamp_ms, _copy_to_cpu(weights, reused))
        self.events.add_epoch(status)
        self.epochs.append(status.result.metrics())

    def to_json(self) -> dict[str, Any]:
        """Return everything but the tensors of the best epoch, as plain values."""
        return {
            "stopping": self.stopping.to_json(),
            "events": self.events.rows,
            "best": None if self.best is None else self.best.to_json(),
            "stopped_epoch": self.stopped_epoch,
            "has_noted_fault": self.has_noted_fault,
            "epochs": list(self.epochs),
        }

    @classmethod
    def from_json(
        cls,
        config: TrainConfig,
        values: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        predictions: Mapping[str, Tensor],
    ) -> "RunProgress":
        """Return the progress of which `to_json` returned the plain values.

        `weights` and `predictions` are those of the best epoch; empty without one.
        """
        best = values["best"]
        return cls(
            EarlyStopping.from_json(config, values["stopping"]),
            EventLog(values["events"]),
            None if best is None else BestEpoch.from_json(best, weights, predictions),
            values["stopped_epoch"],
            values["has_noted_fault"],
            list(values["epochs"]),
        )


def _copy_to_cpu(tensors: Mapping[str, Tensor], reused: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, into the memory of `reused` if it is not empty."""
    if not reused:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        reused[name].copy_(tensor.detach())
    return reused
