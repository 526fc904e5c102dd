"""Early stopping: the best epoch so far, and the reason for which training stops."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trialrun.config import TrainConfig
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


def stop_early(
    results: Iterable[EpochResult],
    config: TrainConfig,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[EpochStatus]:
    """Yield a status per result; stop after the last epoch, without patience left or out of time.

    An epoch counts as no improvement unless its validation loss is more than `min_delta` below the
    reference, the last loss that improved; NaN never improves. The best epoch has the lowest loss.
    `clock` returns seconds.
    """
    started = clock()
    best_epoch, best_loss, num_stalled = 0, math.inf, 0
    reference = math.inf
    for result in results:
        loss = result.valid_loss if math.isfinite(result.valid_loss) else math.inf
        if loss < best_loss or best_epoch == 0:
            best_epoch, best_loss = result.epoch, loss
        if loss < reference - config.min_delta:
            reference, num_stalled = loss, 0
        else:
            num_stalled += 1
        reason = _find_stop_reason(result.epoch, num_stalled, clock() - started, config)
        yield EpochStatus(result, best_epoch, best_loss, num_stalled, reason)
        if reason is not None:
            return


def _find_stop_reason(
    epoch: int, num_stalled: int, seconds: float, config: TrainConfig
) -> str | None:
    if epoch >= config.epochs:
        return COMPLETED
    if num_stalled >= config.patience:
        return EARLY_STOP
    if config.max_minutes is not None and seconds >= 60 * config.max_minutes:
        return TIME_BUDGET
    return None
