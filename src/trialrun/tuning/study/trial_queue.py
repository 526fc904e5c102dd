"""The trial queue of a study: workers claim trials from it and report their outcome.

The storage holds the queue's state, and a lock serializes all workers on all machines. A trial
starts only while fewer trials are done or running than requested, so the study ends with
exactly that number. A trial that loses its worker is retried with the same settings and seed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.tracking import make_heartbeat, parse_heartbeat
from trialrun.tuning.plan import SearchPlan, find_impossible_reason
from trialrun.tuning.study import attrs
from trialrun.tuning.study.claims import ClaimedTrial, Finished, NothingYet
from trialrun.tuning.study.failure_limits import (
    check_batch_limit,
    check_failed_trials,
    check_impossible_trials,
)
from trialrun.tuning.study.heartbeat import Heartbeat
from trialrun.tuning.study.samplers import BATCH_SIZE, draw_grid_point, make_sampler
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors
from trialrun.tuning.study.trials import (
    find_earlier_run,
    find_next_waiting,
    find_seed_number,
    find_waiting_retry,
    is_done,
    is_lost,
    is_taken_over,
)

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_KEPT_BY_RETRY = (attrs.SETTINGS, attrs.REPLICATE, attrs.REPLICATE_OF, attrs.SEED_NUMBER)
_RUNG = "completed_rung_"  # attributes of Hyperband, which a retry gets when it reports its epochs


@dataclass(slots=True)
class TrialQueue:
    """The trials of one study.

    With `enqueued_only` the queue returns only enqueued trials; for a grid it enqueues the points
    itself. The failures in `ended_before` belong to earlier searches and do not end this one.
    `on_stale` is called with each trial that lost its worker, and with whether it will be retried;
    not for one with a run that a retry has taken over.
    """

    storage: StudyStorage
    study: "Study"
    plan: SearchPlan
    num_trials: int
    deadline: float | None  # seconds since 1970
    enqueued_only: bool
    ended_before: frozenset[int]  # numbers of the trials that had ended when the queue was opened
    on_stale: Callable[["FrozenTrial", bool], None]

    def count_remaining(self) -> int:
        """Return the number of trials that are neither completed nor pruned."""
        trials = self.study.get_trials(deepcopy=False)
        return max(self.num_trials - sum(map(is_done, trials)), 0)

    def claim(self, worker: str) -> ClaimedTrial | NothingYet | Finished:
        """Return the next trial for `worker`.

        Raises:
            TrialrunError: All recent trials failed, or no batch fits in memory.
            TrackingError: The storage fails.
        """
        while (claim := self._try_claim(worker)) is None:
            pass
        return claim

    def _try_claim(self, worker: str) -> ClaimedTrial | NothingYet | Finished | None:
        """Return the next trial; None if the sampled trial cannot be trained."""
        from optuna.trial import TrialState

        if self.deadline is not None and time.time() >= self.deadline:
            return Finished()
        with self._lock():
            trials = self._recover_trials()
            num_done = sum(map(is_done, trials))
            if num_done >= self.num_trials:
                return Finished()
            new = [trial for trial in trials if trial.number not in self.ended_before]
            check_failed_trials(new)
            if not self.enqueued_only:  # enqueued trials and grids are finite
                check_impossible_trials(new)
            num_running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if num_done + num_running >= self.num_trials:
                return NothingYet()
            if self.enqueued_only:
                if not self._ensure_waiting(trials):
                    return NothingYet() if num_running else Finished()
                trials = self.study.get_trials(deepcopy=False)
            return self._sample_trial(worker, trials)

    def _ensure_waiting(self, trials: "Sequence[FrozenTrial]") -> bool:
        """Enqueue the grid's next point if no trial waits; return whether a trial waits now."""
        from optuna.trial import TrialState

        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        is_grid = not self.study.user_attrs.get(attrs.SETTINGS)
        point = draw_grid_point(self.plan, trials) if is_grid else None
        if point is None:
            return False
        self.study.enqueue_trial(point)
        return True

    def _sample_trial(self, worker: str, trials: "Sequence[FrozenTrial]") -> ClaimedTrial | None:
        """Sample the next trial after `trials` and claim it; None if it cannot be trained.

        The lock is held, so the sampler knows all other trials. A trial with settings that cannot
        be combined is pruned, so that Optuna's samplers avoid similar settings.
        """
        study_attrs = self.study.user_attrs
        limit: int | None = study_attrs.get(attrs.BATCH_LIMIT)
        check_batch_limit(self.plan.base.config.batch_size, limit)  # the base's is the smallest
        claim = self._start_trial(limit, trials)
        trial, settings = claim.trial, claim.settings
        self.storage.rdb.record_heartbeat(claim.trial_id)
        if limit is not None and settings.get(BATCH_SIZE, 0) >= limit:
            self._prune_untrainable(trial, attrs.OUT_OF_MEMORY, True)
            return None
        if reason := find_impossible_reason(self.plan.base, settings):
            self._prune_untrainable(trial, attrs.IMPOSSIBLE, reason)
            return None
        trial.set_user_attr(attrs.PROCESS, make_heartbeat().to_tag())
        trial.set_user_attr(attrs.WORKER, worker)  # last: marks the claim as complete
        return claim

    def _start_trial(self, limit: int | None, trials: "Sequence[FrozenTrial]") -> ClaimedTrial:
        """Start a retry, else the next waiting trial, else a new one."""
        from optuna.trial import Trial, TrialState, create_trial

        is_searched = not self.study.user_attrs.get(attrs.SETTINGS, False)
        distributions = self.plan.space.distributions() if is_searched else {}
        retry = find_waiting_retry(trials, distributions)
        waiting = retry or find_next_waiting(trials)
        seed_number = find_seed_number(waiting, trials)
        self.study.sampler = make_sampler(self.plan, seed_number, limit)
        # The pruner, which the sampler asks, needs the number.
        if waiting is None:
            number_attr = {attrs.SEED_NUMBER: seed_number}
            self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=number_attr))
            trial = self.study.ask(distributions)
            trial_id = self._find_id(trial.number)
        elif retry is None:
            trial_id = self._find_id(waiting.number)
            self.storage.rdb.set_trial_user_attr(trial_id, attrs.SEED_NUMBER, seed_number)
            trial = self.study.ask(distributions)
        else:  # there is nothing to sample
            trial_id = self._find_id(retry.number)
            self.storage.rdb.set_trial_state_values(trial_id, TrialState.RUNNING)
            trial = Trial(self.study, trial_id)
        settings = trial.user_attrs.get(attrs.SETTINGS, trial.params)
        earlier_tries = waiting.system_attrs.get(attrs.RETRY_HISTORY, []) if waiting else []
        return ClaimedTrial(trial, trial_id, settings, seed_number, earlier_tries)

    def heartbeat(self, claim: ClaimedTrial) -> Heartbeat:
        """Return a context manager that keeps the trial from becoming stale."""
        return Heartbeat(self.storage, claim.trial_id)

    def report(self, claim: ClaimedTrial, value: float, epoch: int) -> bool:
        """Report the metric of an epoch; return whether the pruner ends the trial."""
        with translate_optuna_errors(self.storage.url), silence_optuna():
            claim.trial.report(value, epoch)
            return bool(claim.trial.should_prune())

    def set_attr(self, claim: ClaimedTrial, name: str, value: Any) -> None:
        """Store a user attribute of the trial."""
        with translate_optuna_errors(self.storage.url):
            claim.trial.set_user_attr(name, value)

    def complete(self, claim: ClaimedTrial, values: Sequence[float]) -> bool:
        """Mark the trial as completed; False if it was given up before and does not count."""
        from optuna.trial import TrialState

        return self._end_trial(claim, TrialState.COMPLETE, values)

    def prune(self, claim: ClaimedTrial) -> bool:
        """Mark the trial as ended by the pruner; False if it was given up before."""
        from optuna.trial import TrialState

        return self._end_trial(claim, TrialState.PRUNED)

    def fail(self, claim: ClaimedTrial, error: str) -> bool:
        """Mark the trial as failed because of its settings; another trial replaces it.

        Returns:
            False if it was given up before.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            self.set_attr(claim, attrs.ERROR, error)
        except UpdateFinishedTrialError:
            return False
        return self._end_trial(claim, TrialState.FAIL)

    def prune_out_of_memory(self, claim: ClaimedTrial, batch_size: int) -> bool:
        """Prune a trial that ran out of memory; later trials get smaller batches.

        Returns:
            False if the trial was given up before.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with self._lock():
            if BATCH_SIZE in self.plan.space.dimensions:
                limit = self.study.user_attrs.get(attrs.BATCH_LIMIT, batch_size)
                self.study.set_user_attr(attrs.BATCH_LIMIT, min(limit, batch_size))
            try:
                self._prune_untrainable(claim.trial, attrs.OUT_OF_MEMORY, True)
            except UpdateFinishedTrialError:
                return False
            return True

    def _prune_untrainable(self, trial: "Trial", name: str, value: str | bool) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(name, value)
        self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def end_run_of_lost(self, claim: ClaimedTrial) -> bool:
        """End the run of a trial that another worker has been given.

        Returns:
            False if that worker continues the run, which then does not end.
        """
        with self._lock():
            trials = self.study.get_trials(deepcopy=False)
            return self._end_lost(trials[claim.number], trials, is_retried=False)

    def _end_lost(
        self, trial: "FrozenTrial", trials: "Sequence[FrozenTrial]", *, is_retried: bool
    ) -> bool:
        """End the run of a lost trial, unless a later try continues it; the lock is held."""
        if is_taken_over(trial, trials):
            return False
        self.on_stale(trial, is_retried)
        return True

    def take_over_run(self, claim: ClaimedTrial, can_continue: Callable[[str], bool]) -> str | None:
        """Give the run of the try before to this trial, if there is one that can be continued.

        No other process ends the run from then on: it would hold the lock for that.
        """
        if not claim.earlier_tries:
            return None
        with self._lock():
            trials = self.study.get_trials(deepcopy=False)
            run_id = find_earlier_run(trials[claim.number], trials)
            if run_id is None or not can_continue(run_id):
                return None
            claim.trial.set_user_attr(attrs.RUN_ID, run_id)
            return run_id

    def list_earlier_runs(self, claim: ClaimedTrial) -> list[str]:
        """Return the runs of the tries before this trial."""
        if not claim.earlier_tries:
            return []
        with translate_optuna_errors(self.storage.url):
            trials = self.study.get_trials(deepcopy=False)
        runs = (trials[number].user_attrs.get(attrs.RUN_ID) for number in claim.earlier_tries)
        return list(filter(None, runs))

    def requeue(self, claim: ClaimedTrial, reason: str) -> None:
        """Return a trial to the queue because its worker stops."""
        from optuna.trial import TrialState

        with self._lock():
            claim.trial.set_user_attr(attrs.INTERRUPTED, reason)
            ended = self.study.tell(claim.trial, state=TrialState.FAIL, skip_if_finished=True)
            if ended.state == TrialState.FAIL:
                self._enqueue_retry(ended)

    def requeue_worker(self, worker: str) -> None:
        """Mark the claimed trials of a dead worker as failed; the next claim requeues them."""
        from optuna.trial import TrialState

        with self._lock():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(attrs.WORKER) == worker:
                    self._fail_lost(trial.number)

    def _end_trial(
        self, claim: ClaimedTrial, state: Any, values: Sequence[float] | None = None
    ) -> bool:
        with self._lock():  # no other process gives the trial up at the same time
            ended = self.study.tell(claim.trial, values, state=state, skip_if_finished=True)
            return bool(ended.state == state)

    def _recover_trials(self) -> "list[FrozenTrial]":
        """Requeue trials of workers that are silent or died while claiming; return all trials."""
        import optuna
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            # Without a worker, a process has died in its claim: we hold the lock.
            if attrs.WORKER not in trial.user_attrs or _has_dead_worker(trial):
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        if running:
            optuna.storages.fail_stale_trials(self.study)
            trials = self.study.get_trials(deepcopy=False)
        num_retries = self._enqueue_retries(trials, {trial.number for trial in running})
        return self.study.get_trials(deepcopy=False) if num_retries else trials

    def _enqueue_retries(self, trials: "Sequence[FrozenTrial]", were_running: set[int]) -> int:
        """End the run of each lost trial, then enqueue its retry; return their number."""
        histories = [trial.system_attrs.get(attrs.RETRY_HISTORY, []) for trial in trials]
        retried = {number for history in histories for number in history}
        num_retries = 0
        for trial, history in zip(trials, histories, strict=True):
            if not is_lost(trial):
                continue
            is_retried = trial.number not in retried and len(history) < self.plan.config.retries
            if trial.number in were_running:
                self._end_lost(trial, trials, is_retried=is_retried)
            if is_retried:
                self._enqueue_retry(trial)
                num_retries += 1
        return num_retries

    def _fail_lost(self, number: int) -> None:
        from optuna.trial import TrialState

        ended = self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        num_tries = len(ended.system_attrs.get(attrs.RETRY_HISTORY, []))
        trials = self.study.get_trials(deepcopy=False)
        self._end_lost(ended, trials, is_retried=num_tries < self.plan.config.retries)

    def _enqueue_retry(self, trial: "FrozenTrial") -> None:
        from optuna.trial import TrialState, create_trial

        history = [*trial.system_attrs.get(attrs.RETRY_HISTORY, []), trial.number]
        kept = {k: v for k, v in trial.system_attrs.items() if not k.startswith(_RUNG)}
        retry_attrs = {attrs.RETRY_OF: history[0], attrs.RETRY_HISTORY: history}
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={k: v for k, v in trial.user_attrs.items() if k in _KEPT_BY_RETRY},
                system_attrs={**kept, **retry_attrs},
            )
        )

    def _find_id(self, number: int) -> int:
        """Return the storage's id of a trial."""
        rdb = self.storage.rdb
        study_id = rdb.get_study_id_from_name(self.study.study_name)
        return rdb.get_trial_id_from_study_id_trial_number(study_id, number)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the study's lock, with storage errors translated and Optuna's warnings off."""
        with (
            translate_optuna_errors(self.storage.url),
            silence_optuna(),
            self.storage.lock(f"{self.study.study_name}/trials"),
        ):
            yield


def _has_dead_worker(trial: "FrozenTrial") -> bool:
    """Whether the worker was a process of this machine and has ended; False if it is unknown."""
    process = parse_heartbeat(trial.user_attrs.get(attrs.PROCESS))
    if process is None or not process.is_of_this_machine():
        return False
    return not process.has_living_process()
