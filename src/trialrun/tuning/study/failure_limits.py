"""Limits on trials that cannot be trained: a search without any prospect of success ends."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError
from trialrun.tuning.study import attrs
from trialrun.tuning.study.trials import is_done

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_MAX_FAILED_IN_A_ROW = 10  # more point to a fault common to all trials
_MAX_IMPOSSIBLE_IN_A_ROW = 100  # they are not trained and cost milliseconds each


def check_impossible_trials(trials: Sequence["FrozenTrial"]) -> None:
    """Check that not all of the last trials have settings that cannot be combined.

    Raises:
        InvalidParameterError: They all have.
    """
    latest = trials[-_MAX_IMPOSSIBLE_IN_A_ROW:]
    reasons = [
        str(trial.user_attrs[attrs.IMPOSSIBLE])
        for trial in latest
        if attrs.IMPOSSIBLE in trial.user_attrs
    ]
    if len(reasons) >= _MAX_IMPOSSIBLE_IN_A_ROW:
        raise InvalidParameterError(
            f"{len(reasons)} trials in a row have settings that cannot be combined, the last: "
            f"{reasons[-1]}",
            "Search a shorter warm-up, or more epochs.",
        )


def check_failed_trials(trials: Sequence["FrozenTrial"]) -> None:
    """Check that not all of the last started and ended trials failed by themselves.

    Raises:
        TrialrunError: They all did.
    """
    in_a_row = []
    for trial in reversed(trials):
        if is_done(trial):
            break
        attributes = trial.user_attrs
        if attrs.ERROR in attributes or {attrs.OUT_OF_MEMORY, attrs.WORKER} <= attributes.keys():
            in_a_row.append(str(attributes.get(attrs.ERROR, "a batch that exceeds the memory")))
    if len(in_a_row) >= _MAX_FAILED_IN_A_ROW:
        raise TrialrunError(
            f"{len(in_a_row)} trials in a row have failed, the last with {in_a_row[0]}",
            "Search smaller values, or train once with fixed ones to find the cause.",
        )


def check_batch_limit(smallest: int, limit: int | None) -> None:
    """Check that the smallest batch of the space is below the limit, if there is one.

    Raises:
        OutOfMemoryError: It is not.
    """
    if limit is not None and smallest >= limit:
        raise OutOfMemoryError(
            f"no trial fits in memory: a batch of {limit} images did not fit",
            "Search smaller batch_size values, or a smaller image_size or model.",
        )
