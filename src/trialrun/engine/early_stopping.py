"""Early stopping: the best epoch so far, and the reason for which training stops."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trialrun.config import TrainConfig
from trialrun.engine.image_sizes import count_uncounted_epochs
from trialrun.engine.results import EpochResult

COMPLETED = "completed"
EARLY_STOP = "early_stop"
TIME_BUDGET = "time_budget"
NON_FINITE_LOSS = "non_finite_loss"
KILLED = "killed"
PRUNED = "pruned"


class PrunedError(Exception):
    """The pruner stopped this trial; a callback raises it after an epoch."""


@dataclass(frozen=True, slots=True)
class EpochStatus:
    """One epoch's result and the state of early stopping; `stop_reason` is set on the last one."""

    result: EpochResult
    best_epoch: int
    best_valid_loss: float
    epochs_without_improvement: int
    stop_reason: str | None

    @property
    def is_best(self) -> bool:
        """Whether this epoch is the best so far."""
        return self.best_epoch == self.result.epoch


@dataclass(slots=True)
class EarlyStopping:
    """The state of early stopping after an epoch; `update` adds the next one.

    An epoch counts as no improvement unless its validation loss is more than `min_delta` below the
    reference, the last loss that improved; NaN never improves. The best epoch has the lowest loss.
    Patience begins once all layers train, at the full image size: smaller images lower the loss
    less. `lowest` are the lowest losses after each epoch since.
    """

    config: TrainConfig
    best_epoch: int = 0
    best_loss: float = math.inf
    reference: float = math.inf
    num_stalled: int = 0
    stop_reason: str | None = None
    seconds: float = 0.0  # of training so far, those of earlier processes included
    lowest: tuple[float, ...] = ()

    def update(self, result: EpochResult, seconds: float) -> EpochStatus:
        """Add an epoch and return its status; `seconds` is the training time so far."""
        loss = result.valid_loss if math.isfinite(result.valid_loss) else math.inf
        if loss < self.best_loss or self.best_epoch == 0:
            self.best_epoch, self.best_loss = result.epoch, loss
        if loss < self.reference - self.config.min_delta:
            self.reference, self.num_stalled = loss, 0
        else:
            self.num_stalled += 1
        self.seconds = seconds
        if result.epoch > count_uncounted_epochs(self.config):
            self.lowest = (*self.lowest, self.best_loss)
        self.stop_reason = self._find_stop_reason(result.epoch)
        return EpochStatus(
            result, self.best_epoch, self.best_loss, self.num_stalled, self.stop_reason
        )

    def _find_stop_reason(self, epoch: int) -> str | None:
        if epoch >= self.config.epochs:
            return COMPLETED
        num_counted = epoch - count_uncounted_epochs(self.config)
        if min(self.num_stalled, num_counted) >= self.config.patience:
            return EARLY_STOP
        gain = forecast_gain(self.lowest, self.config.patience, self.config.epochs - epoch)
        if gain < self.config.min_gain:
            return EARLY_STOP
        max_minutes = self.config.max_minutes
        if max_minutes is not None and self.seconds >= 60 * max_minutes:
            return TIME_BUDGET
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the state as plain values; infinity is None."""
        values = {name: getattr(self, name) for name in _STATE}
        values["lowest"] = [_hide_infinity(loss) for loss in self.lowest]
        return {name: _hide_infinity(value) for name, value in values.items()}

    @classmethod
    def from_json(cls, config: TrainConfig, values: Mapping[str, Any]) -> "EarlyStopping":
        """Return the state that `to_json` returned."""
        infinite = {name: math.inf for name in _LOSSES if values[name] is None}
        losses = values.get("lowest", ())  # of which checkpoints before version 0.2 have none
        lowest = tuple(math.inf if loss is None else loss for loss in losses)
        state = {name: values[name] for name in _STATE} | infinite
        return cls(config, **state, lowest=lowest)


def forecast_gain(lowest: Sequence[float], window: int, num_epochs: int) -> float:
    """Return by how much the lowest loss is expected to fall in `num_epochs` further epochs.

    The mean gain per epoch of the last `window` epochs is extrapolated, and shrinks from epoch to
    epoch as it did since the `window` epochs before. Infinite without so many epochs or losses.
    """
    if len(lowest) <= 2 * window or not math.isfinite(lowest[-2 * window - 1]):
        return math.inf
    before = lowest[-2 * window - 1] - lowest[-window - 1]
    now = lowest[-window - 1] - lowest[-1]
    shrinking = min(now / before, 1.0) ** (1 / window) if before > 0 else 1.0
    return now / window * sum(shrinking**epoch for epoch in range(1, num_epochs + 1))


def _hide_infinity(value: Any) -> Any:
    return None if value in (math.inf, -math.inf) else value


_LOSSES = ("best_loss", "reference")
_STATE = ("best_epoch", *_LOSSES, "num_stalled", "stop_reason", "seconds")


def stop_early(
    results: Iterable[EpochResult],
    stopping: EarlyStopping,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[EpochStatus]:
    """Yield a status per result; stop after the last epoch, without patience left or out of time.

    `stopping` is updated. `clock` returns seconds.
    """
    if stopping.stop_reason is not None:
        return
    started = clock() - stopping.seconds
    for result in results:
        status = stopping.update(result, clock() - started)
        yield status
        if status.stop_reason is not None:
            return
