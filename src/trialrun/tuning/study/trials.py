"""Views of a study's trials: the done ones, the best ones and the next one."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from trialrun.tuning.objectives import Objective, as_minimized
from trialrun.tuning.study import attrs

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def is_done(trial: "FrozenTrial") -> bool:
    """Whether a trial counts toward the requested number: completed, or pruned by the pruner."""
    from optuna.trial import TrialState

    if trial.state == TrialState.PRUNED:
        return not {attrs.OUT_OF_MEMORY, attrs.IMPOSSIBLE} & trial.user_attrs.keys()
    return bool(trial.state == TrialState.COMPLETE)


def sort_by_objective(
    trials: Sequence["FrozenTrial"], objectives: Sequence[Objective]
) -> list["FrozenTrial"]:
    """Return the completed trials, best first: by the first metric, the next ones, the number."""
    from optuna.trial import TrialState

    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    return sorted(
        completed, key=lambda trial: (as_minimized(trial.values, objectives), trial.number)
    )


def find_waiting_retry(
    trials: Sequence["FrozenTrial"], names: Collection[str]
) -> "FrozenTrial | None":
    """Return the first waiting retry that has the settings `names`; retries go before other trials.

    So the trials of a search with one worker keep their order, whatever interrupts it.
    """
    from optuna.trial import TrialState

    return next(
        (
            trial
            for trial in trials
            if trial.state == TrialState.WAITING
            and attrs.RETRY_HISTORY in trial.system_attrs
            and set(names) <= trial.params.keys()  # else its worker died while it was sampled
        ),
        None,
    )


def find_next_waiting(trials: Sequence["FrozenTrial"]) -> "FrozenTrial | None":
    """Return the waiting trial that Optuna starts next; None if it creates a new one."""
    from optuna.trial import TrialState

    return next((trial for trial in trials if trial.state == TrialState.WAITING), None)


def find_seed_number(trial: "FrozenTrial | None", trials: Sequence["FrozenTrial"]) -> int:
    """Return the number from which the seeds of a trial derive; None is a new trial.

    It is the number that the trial would have if no trial had been retried, so that interruptions
    change no seed. A replicate has the index of its seed.
    """
    if trial is not None:
        known = trial.user_attrs.get(attrs.SEED_NUMBER, trial.user_attrs.get(attrs.REPLICATE))
        if known is None:  # a retry that an older version has enqueued
            known = next(iter(trial.system_attrs.get(attrs.RETRY_HISTORY, [])), None)
        if known is not None:
            return int(known)
    before = trials if trial is None else trials[: trial.number]
    first_tries = [item for item in before if attrs.RETRY_HISTORY not in item.system_attrs]
    # An older version counted retries too: do not use a number twice.
    used = [item.user_attrs.get(attrs.SEED_NUMBER, -1) + 1 for item in first_tries]
    return int(max([len(first_tries), *used]))


def is_lost(trial: "FrozenTrial") -> bool:
    """Whether a trial ended because its worker stopped, and not by itself."""
    from optuna.trial import TrialState

    return trial.state == TrialState.FAIL and attrs.ERROR not in trial.user_attrs


def find_earlier_run(trial: "FrozenTrial", trials: Sequence["FrozenTrial"]) -> str | None:
    """Return the run of the latest try before `trial` that had one."""
    history = trial.system_attrs.get(attrs.RETRY_HISTORY, [])
    runs = (trials[number].user_attrs.get(attrs.RUN_ID) for number in reversed(history))
    return next((run_id for run_id in runs if run_id), None)


def is_taken_over(trial: "FrozenTrial", trials: Sequence["FrozenTrial"]) -> bool:
    """Whether a later try continues the run of `trial`."""
    run_id = trial.user_attrs.get(attrs.RUN_ID)
    later = (item.user_attrs.get(attrs.RUN_ID) for item in trials[trial.number + 1 :])
    return run_id is not None and run_id in later


def list_ended_runs(trials: Sequence["FrozenTrial"], max_retries: int) -> set[str]:
    """Return the runs that no trial continues: all but those of open trials and earlier tries."""
    retried = {n for trial in trials for n in trial.system_attrs.get(attrs.RETRY_HISTORY, [])}
    open_numbers: set[int] = set()
    for trial in trials:
        history = trial.system_attrs.get(attrs.RETRY_HISTORY, [])
        is_pending = is_lost(trial) and trial.number not in retried and len(history) < max_retries
        if not trial.state.is_finished() or is_pending:
            open_numbers |= {trial.number, *history}
    runs = {number: trial.user_attrs.get(attrs.RUN_ID) for number, trial in enumerate(trials)}
    kept = {runs[number] for number in open_numbers}
    return {run_id for run_id in runs.values() if run_id and run_id not in kept}
