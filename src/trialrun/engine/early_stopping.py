"""When training stops, and which epoch was the best, judged as each result comes in."""

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
    """Training is hopeless beside other trials: raised by who watches it, after an epoch."""


@dataclass(frozen=True, slots=True)
class EpochStatus:
    """One epoch's result in the light of those before; `stop_reason` is set on the last."""

    result: EpochResult
    best_epoch: int
    best_valid_loss: float
    epochs_without_improvement: int
    stop_reason: str | None

    @property
    def is_best(self) -> bool:
        """Whether this epoch's weights are the ones to keep."""
        return self.best_epoch == self.result.epoch


def stop_early(
    results: Iterable[EpochResult],
    config: TrainConfig,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[EpochStatus]:
    """Pass results on until the epochs are done, the loss has stalled, or the time is up.

    An epoch stalls where its validation loss is not more than `min_delta` below the best so far; a
    loss that is not a number never is. The best epoch is the one of the lowest loss.
    """
    started = clock()
    best_epoch, best_loss, stalled = 0, math.inf, 0
    reference = math.inf  # the loss that the next must undercut by min_delta
    for result in results:
        loss = result.valid_loss if math.isfinite(result.valid_loss) else math.inf
        if loss < best_loss or best_epoch == 0:
            best_epoch, best_loss = result.epoch, loss
        if loss < reference - config.min_delta:
            reference, stalled = loss, 0
        else:
            stalled += 1
        reason = _find_stop_reason(result.epoch, stalled, clock() - started, config)
        yield EpochStatus(result, best_epoch, best_loss, stalled, reason)
        if reason is not None:
            return


def _find_stop_reason(epoch: int, stalled: int, seconds: float, config: TrainConfig) -> str | None:
    if epoch >= config.epochs:
        return COMPLETED
    if stalled >= config.patience:
        return EARLY_STOP
    if config.max_minutes is not None and seconds >= 60 * config.max_minutes:
        return TIME_BUDGET
    return None
