"""The desk: where trials are handed out and taken back, one at a time, by whoever works on a study.

What decides is the storage, under a lock that holds between all workers of all machines: a trial is
begun only while those ended well and those running are fewer than were asked for, so that there
are exactly as many in the end. A trial whose worker was lost is begun again with the same settings
and the same seed.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError
from trialrun.tuning.plan import Objective, SearchPlan, as_minimized, find_impossible_reason
from trialrun.tuning.study.samplers import BATCH_SIZE, draw_grid_point, make_sampler
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

# What a trial carries (Optuna's user attributes); a study's are in `study`.
_WORKER, RUN_ID, ERROR, CUT, INFEASIBLE = "worker", "run_id", "error", "cut", "does_not_fit"
MODEL_URI, RESULT, SEED_NUMBER = "model_uri", "result", "seed_number"
SETTINGS, REPLICATE, OF_TRIAL = "settings", "replicate", "of_trial"
IMPOSSIBLE = "impossible"  # why its settings cannot go together
_BATCH_LIMIT = "batch_size_too_large"  # of the study: the smallest batch that did not fit

_CARRIED_ON = (SETTINGS, REPLICATE, OF_TRIAL)
RETRY_OF, _HISTORY = "failed_trial", "retry_history"  # Optuna's own names, its dashboard shows them
_MAX_FAILURES_IN_A_ROW = 10  # more is no accident of one setting but a fault of them all
_MAX_IMPOSSIBLE_IN_A_ROW = 100  # untrained, so that they cost milliseconds each


@dataclass(frozen=True, slots=True)
class ClaimedTrial:
    """A trial that this worker has taken, and the settings and the number its seed comes from."""

    trial: "Trial"
    settings: Mapping[str, Any]
    seed_number: int

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0."""
        return self.trial.number


@dataclass(frozen=True, slots=True)
class NothingYet:
    """Nothing to do yet: the trials running may be the last, or may be lost."""


@dataclass(frozen=True, slots=True)
class Finished:
    """No trial is to be begun any more."""


@dataclass(slots=True)
class TrialQueue:
    """One study's trials.

    `only_waiting` hands out none but those that were put there, and a grid's next point. Trials
    that had ended when the desk was opened, `ended_before`, are no failures of this search.
    """

    storage: StudyStorage
    study: "Study"
    plan: SearchPlan
    num_trials: int
    deadline: float | None  # seconds since 1970
    enqueued_only: bool
    ended_before: frozenset[int]  # trials' numbers
    on_stale: Callable[["FrozenTrial"], None]

    def claim(self, worker: str) -> ClaimedTrial | NothingYet | Finished:
        """The next trial for `worker`.

        Raises:
            TrialrunError: Nothing but failures, or no batch fits in memory.
            TrackingError: The storage fails.
        """
        while (claim := self._next(worker)) is None:
            pass
        return claim

    def _next(self, worker: str) -> ClaimedTrial | NothingYet | Finished | None:
        """As `claim`; None where the trial that was drawn cannot be trained."""
        from optuna.trial import TrialState

        if self.deadline is not None and time.time() >= self.deadline:
            return Finished()
        with self._locked():
            trials = self._recovered()
            num_done = sum(map(is_done, trials))
            if num_done >= self.num_trials:
                return Finished()
            new = [trial for trial in trials if trial.number not in self.ended_before]
            _check_endless_failure(new)
            if not self.enqueued_only:  # what waits is finite, and so is a grid
                _check_endless_impossible(new)
            num_running = sum(trial.state == TrialState.RUNNING for trial in trials)
            if num_done + num_running >= self.num_trials:
                return NothingYet()
            if self.enqueued_only and not self._is_any_waiting(trials):
                return NothingYet() if num_running else Finished()
            return self._ask(worker, _next_number(trials))

    def _is_any_waiting(self, trials: "Sequence[FrozenTrial]") -> bool:
        """Whether a trial waits, the grid's next point having been put there if need be."""
        from optuna.trial import TrialState

        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        point = None if self.study.user_attrs.get(SETTINGS) else draw_grid_point(self.plan, trials)
        if point is None:
            return False
        self.study.enqueue_trial(point)
        return True

    def _ask(self, worker: str, number: int) -> ClaimedTrial | None:
        """A trial, sampled under the lock to know of every other; None where it cannot be trained.

        One whose settings cannot go together is pruned: Optuna's samplers then avoid its like.
        """
        attributes = self.study.user_attrs
        limit: int | None = attributes.get(_BATCH_LIMIT)
        self._refuse_endless_memory(limit)
        self.study.sampler = make_sampler(self.plan, number, limit)
        searched = not attributes.get(SETTINGS, False)
        trial = self.study.ask(self.plan.space.distributions() if searched else {})
        settings = trial.user_attrs.get(SETTINGS, trial.params)
        self.storage.rdb.record_heartbeat(self._id_of(trial.number))
        if limit is not None and settings.get(BATCH_SIZE, 0) >= limit:
            self._prune_unfit(trial)
            return None
        if reason := find_impossible_reason(self.plan.base, settings):
            self._prune_unfit(trial, IMPOSSIBLE, reason)
            return None
        known = self.study.get_trials(deepcopy=False)[trial.number]
        history = known.system_attrs.get(_HISTORY, [])
        seed_number = trial.user_attrs.get(REPLICATE, history[0] if history else trial.number)
        trial.set_user_attr(SEED_NUMBER, seed_number)
        trial.set_user_attr(_WORKER, worker)  # last: without it a claim was not completed
        return ClaimedTrial(trial, settings, seed_number)

    def _refuse_endless_memory(self, limit: int | None) -> None:
        smallest = self.plan.base.config.batch_size  # of the base: the space's smallest
        if limit is not None and smallest >= limit:
            raise OutOfMemoryError(
                f"no trial fits in memory: a batch of {limit} images did not",
                "Search smaller batch_size values, or a smaller image_size or model.",
            )

    def heartbeat(self, claim: ClaimedTrial) -> "Heartbeat":
        """A context that shows that the claim's worker lives."""
        return Heartbeat(self.storage, self._id_of(claim.number))

    def report(self, claim: ClaimedTrial, value: float, epoch: int) -> bool:
        """Note a value after an epoch; whether the trial is to be pruned."""
        with translate_optuna_errors(self.storage.url), silence_optuna():
            claim.trial.report(value, epoch)
            return bool(claim.trial.should_prune())

    def note(self, claim: ClaimedTrial, name: str, value: Any) -> None:
        """Keep something with the trial."""
        with translate_optuna_errors(self.storage.url):
            claim.trial.set_user_attr(name, value)

    def complete(self, claim: ClaimedTrial, values: Sequence[float]) -> bool:
        """The trial ended well; False where it had been given up meanwhile, and does not count."""
        from optuna.trial import TrialState

        return self._tell(claim, TrialState.COMPLETE, values)

    def prune(self, claim: ClaimedTrial) -> bool:
        """The trial was ended early by the pruner."""
        from optuna.trial import TrialState

        return self._tell(claim, TrialState.PRUNED)

    def fail(self, claim: ClaimedTrial, error: str) -> bool:
        """The trial failed for a reason of its own; another will take its place."""
        from optuna.trial import TrialState

        self.note(claim, ERROR, error)
        return self._tell(claim, TrialState.FAIL)

    def prune_out_of_memory(self, claim: ClaimedTrial, batch_size: int) -> None:
        """The trial's batch is too large for the memory: it is pruned, and none as large tried."""
        with self._locked():
            if BATCH_SIZE in self.plan.space.dimensions:
                known = self.study.user_attrs.get(_BATCH_LIMIT, batch_size)
                self.study.set_user_attr(_BATCH_LIMIT, min(known, batch_size))
            self._prune_unfit(claim.trial)

    def _prune_unfit(
        self, trial: "Trial", why: str = INFEASIBLE, reason: str | bool = True
    ) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(why, reason)
        self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)

    def requeue(self, claim: ClaimedTrial, reason: str) -> None:
        """The worker is being stopped: the trial is to be begun again by another."""
        from optuna.trial import TrialState

        with self._locked():
            claim.trial.set_user_attr(CUT, reason)
            told = self.study.tell(claim.trial, state=TrialState.FAIL, skip_if_finished=True)
            if told.state == TrialState.FAIL:
                self._requeue(told)

    def release(self, worker: str) -> None:
        """Take back what `worker`, which is known to be dead, had claimed."""
        from optuna.trial import TrialState

        with self._locked():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(_WORKER) == worker:
                    self._lose(trial.number)

    def _tell(self, claim: ClaimedTrial, state: Any, values: Sequence[float] | None = None) -> bool:
        with self._locked():  # so that nobody gives the trial up at the same time
            told = self.study.tell(claim.trial, values, state=state, skip_if_finished=True)
            return bool(told.state == state)

    def _recovered(self) -> "list[FrozenTrial]":
        """All trials, those whose worker is silent or died while claiming queued again."""
        import optuna
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            if _WORKER not in trial.user_attrs:  # nobody else claims while we hold the lock
                self._lose(trial.number)
        if running:
            optuna.storages.fail_stale_trials(self.study)
            trials = self.study.get_trials(deepcopy=False)
        again = {number for trial in trials for number in trial.system_attrs.get(_HISTORY, [])}
        silent = {trial.number for trial in running}
        num_queued = 0
        for trial in trials:
            if trial.state != TrialState.FAIL or ERROR in trial.user_attrs:
                continue
            if trial.number in silent:
                self.on_stale(trial)
            tried = len(trial.system_attrs.get(_HISTORY, []))
            if trial.number not in again and tried < self.plan.config.retries:
                self._requeue(trial)
                num_queued += 1
        return self.study.get_trials(deepcopy=False) if num_queued else trials

    def _lose(self, number: int) -> None:
        from optuna.trial import TrialState

        told = self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        self.on_stale(told)

    def _requeue(self, trial: "FrozenTrial") -> None:
        """Put a copy of a trial that was lost into the queue."""
        from optuna.trial import TrialState, create_trial

        history = [*trial.system_attrs.get(_HISTORY, []), trial.number]
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={k: v for k, v in trial.user_attrs.items() if k in _CARRIED_ON},
                system_attrs={**trial.system_attrs, RETRY_OF: history[0], _HISTORY: history},
            )
        )

    def _id_of(self, number: int) -> int:
        rdb = self.storage.rdb
        study_id = rdb.get_study_id_from_name(self.study.study_name)
        return rdb.get_trial_id_from_study_id_trial_number(study_id, number)

    def _locked(self) -> "_StudyLock":
        return _StudyLock(self.storage, self.study.study_name)


class _StudyLock:
    """The study's lock, with complaints of the storage translated and Optuna quiet."""

    def __init__(self, storage: StudyStorage, name: str) -> None:
        self._contexts = (
            translate_optuna_errors(storage.url),
            silence_optuna(),
            storage.lock(f"{name}/trials"),
        )

    def __enter__(self) -> None:
        from contextlib import ExitStack

        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context)
            self._stack = stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class Heartbeat:
    """A thread that marks a trial as alive until it is left."""

    def __init__(self, storage: StudyStorage, trial_id: int) -> None:
        self._storage, self._trial_id = storage, trial_id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        from optuna.exceptions import StorageInternalError  # in which Optuna wraps the other
        from sqlalchemy.exc import SQLAlchemyError

        rdb = self._storage.rdb
        interval = rdb.get_heartbeat_interval()
        try:
            while not self._stop.wait(interval):
                # The next beat is another chance; training goes on meanwhile.
                with suppress(SQLAlchemyError, StorageInternalError):
                    rdb.record_heartbeat(self._trial_id)
        finally:
            rdb.remove_session()


def is_done(trial: "FrozenTrial") -> bool:
    """Whether a trial counts: trained to its end, or pruned for its values."""
    from optuna.trial import TrialState

    if trial.state == TrialState.PRUNED:
        return not {INFEASIBLE, IMPOSSIBLE} & trial.user_attrs.keys()
    return bool(trial.state == TrialState.COMPLETE)


def sort_by_objective(
    trials: Sequence["FrozenTrial"], objectives: Sequence[Objective]
) -> list["FrozenTrial"]:
    """The completed trials by the first metric, ties by the next, then by number."""
    from optuna.trial import TrialState

    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    return sorted(
        completed, key=lambda trial: (as_minimized(trial.values, objectives), trial.number)
    )


def _next_number(trials: Sequence["FrozenTrial"]) -> int:
    """The number of the trial that Optuna hands out next: one that waits, else a new one."""
    from optuna.trial import TrialState

    waiting = (trial.number for trial in trials if trial.state == TrialState.WAITING)
    return min(waiting, default=len(trials))


def _check_endless_impossible(trials: Sequence["FrozenTrial"]) -> None:
    """Stop where the last trials all drew settings that cannot go together."""
    latest = trials[-_MAX_IMPOSSIBLE_IN_A_ROW:]
    reasons = [str(t.user_attrs[IMPOSSIBLE]) for t in latest if IMPOSSIBLE in t.user_attrs]
    if len(reasons) >= _MAX_IMPOSSIBLE_IN_A_ROW:
        raise InvalidParameterError(
            f"{len(reasons)} trials in a row drew settings that cannot go together, the last: "
            f"{reasons[-1]}",
            "Search a shorter warm-up, or more epochs.",
        )


def _check_endless_failure(trials: Sequence["FrozenTrial"]) -> None:
    """Stop where the last ten trials that were begun and have ended all failed by themselves."""
    in_a_row = []
    for trial in reversed(trials):
        if is_done(trial):
            break
        if ERROR in trial.user_attrs or {INFEASIBLE, _WORKER} <= trial.user_attrs.keys():
            in_a_row.append(str(trial.user_attrs.get(ERROR, "a batch that does not fit in memory")))
    if len(in_a_row) >= _MAX_FAILURES_IN_A_ROW:
        raise TrialrunError(
            f"{len(in_a_row)} trials in a row have failed, the last with {in_a_row[0]}",
            "Search smaller values, or train once with fixed ones to see what is wrong.",
        )
