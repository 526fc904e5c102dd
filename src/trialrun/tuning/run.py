"""A whole search: its parent run, its trials, its replicates, and what is made of the best.

Whoever holds the study's `owner` lock owns the parent run and concludes the search; other machines
that run the same command join with their workers, and conclude should the owner die.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trialrun.errors import CutBySignalError, TrackingError, TrialrunError
from trialrun.mlflow_client import connect_client
from trialrun.tracking import TrackedRun, find_project_run, open_run
from trialrun.tuning.callbacks import NoOpSearchCallback, SearchCallback
from trialrun.tuning.plan import SearchPlan, redact_password
from trialrun.tuning.reporting.logging import count_by_state, log_best, log_plots, log_trials
from trialrun.tuning.reporting.parent_run import end_lost_run, end_orphaned_runs, register_once
from trialrun.tuning.reporting.seed_replicates import (
    NoiseFloor,
    compute_noise_floor,
    open_replicate_study,
)
from trialrun.tuning.reporting.trial_logger import TrialLogger
from trialrun.tuning.result import SearchResult
from trialrun.tuning.study import study as studies
from trialrun.tuning.study import trial_queue as kept
from trialrun.tuning.study.locks import LockHandle
from trialrun.tuning.study.storage import (
    StudyStorage,
    find_default_storage,
    open_storage,
    translate_optuna_errors,
)
from trialrun.tuning.study.trial_queue import TrialQueue, sort_by_objective
from trialrun.tuning.workers.pool import POLL_SECONDS, WorkerPool, make_worker_name, run_trials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study

_OWNER_POLL_SECONDS = 1.0
_OWNER_SECONDS = 60  # that the machine which began a study has for opening its parent run


def run_search(plan: SearchPlan, callback: SearchCallback | None = None) -> SearchResult:
    """Search as `plan` says: a parent run in MLflow, a nested run a trial, the best registered.

    Raises:
        TrialrunError: As its kinds say; the parent run is then FAILED.
        CutBySignalError: A signal came; running trials are KILLED and wait to be begun again.
    """
    client = connect_client()
    storage = open_storage(
        plan.config.storage or find_default_storage(),
        heartbeat_seconds=plan.config.heartbeat_seconds,
    )
    with translate_optuna_errors(storage.url), closing(storage):
        study = studies.open_study(storage, plan.config.study or studies.generate_name(), plan)
        deadline = time.time() + plan.config.timeout if plan.config.timeout else None
        under_way = _SearchRun(
            plan, callback or NoOpSearchCallback(), client, storage, study, deadline
        )
        try:
            return under_way.result()
        except CutBySignalError as cut:
            cut.hint = f"Its trials are kept: go on with --study {study.study_name}."
            raise


@dataclass(slots=True)
class _SearchRun:
    plan: SearchPlan
    callback: SearchCallback
    client: "MlflowClient"
    storage: StudyStorage
    study: "Study"
    deadline: float | None
    stop_reason: str = ""  # once the last trial was trained
    runner: Any = None  # a Bench, once this process trains itself: torch is not imported before

    def result(self) -> SearchResult:
        """Own the search, or join it."""
        for note in self.plan.notes:
            self.callback.note(note)
        with self._owner_lock(wait=False) as lock:
            result = self._owned(lock) if lock else None
        result = result or self._joined()
        self._mark_call(result)
        return result

    def _owned(self, lock: LockHandle) -> SearchResult:
        with self._parent(self.study.user_attrs.get(studies.PARENT_RUN)) as run:
            self.callback.opened(run.name, run.run_id)
            run.set_tags(self.plan.tags())
            run.log_params({**self.plan.params(), "study": self.study.study_name})
            self.study.set_user_attr(studies.PARENT_RUN, run.run_id)
            self._train_trials(run.run_id)
            return self._concluded_once(run, lock)

    def _parent(self, run_id: str | None) -> AbstractContextManager[TrackedRun]:
        """The search's run, opened again or new; it ends with a status that is true."""
        return open_run(
            self.client,
            experiment=self.plan.base.config.experiment,
            name=self.plan.base.config.run_name or self.study.study_name,
            tags={"trialrun.version": version("trialrun"), "study": self.study.study_name},
            run_id=run_id,
        )

    def _joined(self) -> SearchResult:
        """Work beside the owner, then take its result."""
        parent_run_id = self._parent_of_owner()
        self.callback.note(f"study {self.study.study_name} is under way: joining it")
        self._train_trials(parent_run_id)
        timed_out = self.deadline is not None and time.time() >= self.deadline
        return self._of_the_owner(parent_run_id, wait=not timed_out)

    def _of_the_owner(self, parent_run_id: str, *, wait: bool) -> SearchResult:
        """What the owner has concluded; where it has died, that is done here."""
        with self._owner_lock(wait=wait) as lock:
            if lock and not self._is_concluded():
                with self._parent(parent_run_id) as run:
                    return self._concluded_once(run, lock)
        return self._summary(parent_run_id)

    def _concluded_once(self, run: TrackedRun, lock: LockHandle) -> SearchResult:
        """Replicates and conclusion; the latter is left to who has taken a lock that was cut."""
        floor = self._replicated(run.run_id)
        if lock.is_held():
            return self._concluded(run, floor)
        self.callback.note("the connection to the storage was cut: another machine concludes")
        return self._of_the_owner(run.run_id, wait=True)

    def _parent_of_owner(self) -> str:
        deadline = time.monotonic() + _OWNER_SECONDS
        while time.monotonic() < deadline:
            known: str | None = self.study.user_attrs.get(studies.PARENT_RUN)
            if known is not None:
                return known
            time.sleep(POLL_SECONDS)
        raise TrackingError(
            f"study {self.study.study_name} is locked, but has no parent run",
            "Look at the machine that began it, or give another --study.",
        )

    @contextmanager
    def _owner_lock(self, *, wait: bool) -> Iterator[LockHandle | None]:
        while True:
            with self.storage.try_lock(f"{self.study.study_name}/owner") as lock:
                if lock or not wait:
                    yield lock
                    return
            time.sleep(_OWNER_POLL_SECONDS)

    def _train_trials(self, parent_run_id: str) -> None:
        self._train(self.study, parent_run_id)
        self.stop_reason = self._why_ended()  # now: what follows may outlast the deadline

    def _train(self, study: "Study", parent_run_id: str) -> None:
        """Have the trials of a study run, here or by worker processes."""
        queue = self._desk(study)
        after = TrialLogger(study, self.plan, self.callback)
        if self.plan.config.workers > 1:
            WorkerPool(queue, parent_run_id, after).work()
            return
        from trialrun.engine.compute.torch_state import isolate_torch_state

        with isolate_torch_state():
            self._train_here(queue, parent_run_id, after)

    def _train_here(self, queue: TrialQueue, parent_run_id: str, after: Callable[[], None]) -> None:
        """Run trials in this process, one after another."""
        if self.runner is None:
            from trialrun.tuning.workers.trial_runner import TrialRunner

            experiment = TrackedRun(self.client, parent_run_id).experiment_id
            self.runner = TrialRunner(self.plan, parent_run_id, experiment, self.callback)
            self.runner.check_same_data(self.study)
        worker = make_worker_name()
        try:
            run_trials(queue, self.runner, worker, after)
        except BaseException:
            queue.release(worker)
            raise

    def _desk(self, study: "Study") -> TrialQueue:
        return studies.open_trial_queue(
            self.storage,
            study,
            self.plan,
            deadline=self.deadline,
            on_stale=lambda trial: end_lost_run(self.client, trial),
        )

    def _is_concluded(self) -> bool:
        concluded: Mapping[str, Any] | None = self.study.user_attrs.get(studies.CONCLUDED)
        return concluded is not None and concluded["trials"] >= self._num_done()

    def _num_done(self) -> int:
        return sum(map(kept.is_done, self.study.get_trials(deepcopy=False)))

    def _concluded(self, run: TrackedRun, floor: NoiseFloor | None) -> SearchResult:
        """Everything that follows the last training."""
        trials = self.study.get_trials(deepcopy=False)
        best = self._best(floor)
        if best is not None:
            log_best(run, best, trials, self.plan, floor)
            log_plots(run, self.study, self.plan, self.callback)
        log_trials(run, trials, self.plan)
        end_orphaned_runs(self.client, run.experiment_id, run.run_id, self._running_runs())
        if best is None:
            raise TrialrunError(
                f"none of {len(trials)} trials was trained to its end",
                "Allow more time or trials, or look at the failed runs' error tags.",
            )
        self._register(run, best)
        facts = {"trials": self._num_done(), "floor": floor.facts() if floor else None}
        facts["best"] = best.number
        self.study.set_user_attr(studies.CONCLUDED, facts)
        return self._summary(run.run_id)

    def _replicated(self, parent_run_id: str) -> NoiseFloor | None:
        if not self.plan.config.replicates:
            return None
        again = open_replicate_study(self.storage, self.study, self.plan)
        if again is None:
            self.callback.note("no replicates: fewer than two settings were trained to their end")
            return None
        self._train(again, parent_run_id)
        floor = compute_noise_floor(again.get_trials(deepcopy=False), self.plan)
        lacking = "no noise floor: no two settings were trained again with two seeds in common"
        self.callback.note(floor.text() if floor else lacking)
        return floor

    def _best(self, floor: NoiseFloor | None) -> Any:
        trials = self.study.get_trials(deepcopy=False)
        if floor is not None:
            return trials[floor.chosen]
        return next(iter(sort_by_objective(trials, self.plan.objectives)), None)

    def _running_runs(self) -> set[str]:
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {str(trial.user_attrs.get(kept.RUN_ID)) for trial in running}

    def _register(self, run: TrackedRun, best: Any) -> None:
        name = self.plan.base.config.register_as
        if name is None:
            return
        number = register_once(
            self.client,
            name=name,
            model_uri=best.user_attrs[kept.MODEL_URI],
            run_id=best.user_attrs[kept.RUN_ID],
        )
        run.set_tags({"model_name": name, "model_version": number})

    def _summary(self, run_id: str) -> SearchResult:
        trials = self.study.get_trials(deepcopy=False)
        concluded = self.study.user_attrs.get(studies.CONCLUDED) or {}
        ranked = sort_by_objective(trials, self.plan.objectives)
        if not ranked:
            raise TrialrunError("no trial was trained to its end", "Allow more time or trials.")
        best = trials[concluded["best"]] if "best" in concluded else ranked[0]
        tags = self.client.get_run(run_id).data.tags
        several = len(self.plan.objectives) > 1
        told = dict(best.user_attrs[kept.RESULT])
        told |= {"run_id": run_id, "status": "FINISHED"}
        told |= {name: tags.get(name) for name in ("model_name", "model_version")}
        return SearchResult(
            **told,
            study=self.study.study_name,
            storage=redact_password(self.storage.url),
            search_stop_reason=self.stop_reason,
            num_trials=count_by_state(trials),
            best_trial=best.number,
            best_run_id=best.user_attrs[kept.RUN_ID],
            best_params=best.params,
            pareto_trials=tuple(t.number for t in self.study.best_trials) if several else (),
            noise_floor=concluded.get("floor"),
        )

    def _why_ended(self) -> str:
        if self._num_done() >= self.plan.config.trials:
            return "completed"
        timed_out = self.deadline is not None and time.time() >= self.deadline
        return "time_budget" if timed_out else "exhausted"

    def _mark_call(self, result: SearchResult) -> None:
        """Point from the run that `mlflow run` opened for this call to the search's, if another."""
        own = find_project_run()
        if own is not None and own != result.run_id:
            TrackedRun(self.client, own).set_tags(
                {"search_run_id": result.run_id, "study": result.study}
            )
