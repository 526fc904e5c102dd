"""The run of a search: parent run, trials, replicates and registration of the best model.

The process that holds the study's `owner` lock owns the parent run and finalizes the search. Other
processes with the same command join with their workers; if the owner dies, one of them finalizes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from trialrun.config.record import SETTINGS_FILE, format_values
from trialrun.errors import RunInterruptedError, TrackingError, TrialrunError
from trialrun.mlflow_client import connect_client
from trialrun.tracking import TrackedRun, find_project_run, open_run
from trialrun.tuning.callbacks import NoOpSearchCallback, SearchCallback
from trialrun.tuning.plan import TRIAL_SEEDS, SearchPlan
from trialrun.tuning.reporting.logging import count_by_state, log_best, log_plots, log_trials
from trialrun.tuning.reporting.parent_run import (
    check_not_deleted,
    end_lost_run,
    end_orphaned_runs,
    find_changed_settings,
    link_best,
    register_best,
)
from trialrun.tuning.reporting.seed_replicates import (
    NoiseFloor,
    compute_noise_floor,
    open_replicate_study,
)
from trialrun.tuning.reporting.trial_logger import TrialLogger
from trialrun.tuning.result import SearchResult
from trialrun.tuning.storage_url import redact_password
from trialrun.tuning.study import attrs
from trialrun.tuning.study.locks import LockHandle
from trialrun.tuning.study.storage import (
    StudyStorage,
    find_default_storage,
    open_storage,
    translate_optuna_errors,
)
from trialrun.tuning.study.study import generate_name, open_study, open_trial_queue
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.study.trials import is_done, list_ended_runs, sort_by_objective
from trialrun.tuning.workers.division import divide_processors
from trialrun.tuning.workers.pool import POLL_SECONDS, WorkerPool, make_worker_name, run_trials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import FrozenTrial

    from trialrun.tuning.workers.trial_runner import TrialRunner

_OWNER_POLL_SECONDS = 1.0
_PARENT_RUN_TIMEOUT_SECONDS = 60  # for the owner of a new study to open its parent run


def execute_search(plan: SearchPlan, callback: SearchCallback | None = None) -> SearchResult:
    """Search as planned: a parent run, one nested run per trial, and the best model registered.

    Raises:
        TrialrunError: The search failed; the parent run is FAILED.
        RunInterruptedError: A signal was received; running trials are KILLED and requeued.
    """
    client = connect_client()
    storage = open_storage(
        plan.config.storage or find_default_storage(),
        heartbeat_seconds=plan.config.heartbeat_seconds,
    )
    with translate_optuna_errors(storage.url), closing(storage):
        study = open_study(storage, plan.config.study or generate_name(), plan)
        deadline = time.time() + plan.config.timeout if plan.config.timeout else None
        callback = callback or NoOpSearchCallback()
        try:
            return _SearchRun(plan, callback, client, storage, study, deadline).execute()
        except RunInterruptedError as interrupt:
            interrupt.hint = f"Finished trials are stored: resume with --study {study.study_name}."
            raise


@dataclass(slots=True)
class _SearchRun:
    plan: SearchPlan
    callback: SearchCallback
    client: "MlflowClient"
    storage: StudyStorage
    study: "Study"
    deadline: float | None  # seconds since 1970
    stop_reason: str = ""  # set after the last trial
    runner: "TrialRunner | None" = None  # created on first use: it imports torch

    def execute(self) -> SearchResult:
        """Run the search as its owner, or join the owner."""
        for note in self.plan.notes:
            self.callback.on_note(note)
        with self._owner_lock(wait=False) as lock:
            result = self._run_as_owner(lock) if lock else None
        result = result or self._join_owner()
        self._link_project_run(result)
        return result

    def _run_as_owner(self, lock: LockHandle) -> SearchResult:
        with self._open_parent_run(self.study.user_attrs.get(attrs.PARENT_RUN)) as run:
            self.callback.on_run_start(run.name, run.run_id)
            run.log_params({**self.plan.params(), "study": self.study.study_name})
            self._log_settings(run)
            changed = find_changed_settings(self.client, run.run_id, self.plan.changeable())
            run.set_tags({"trial_seeds": TRIAL_SEEDS, **changed})
            self.study.set_user_attr(attrs.PARENT_RUN, run.run_id)
            self._train_trials(run.run_id)
            return self._finalize_once(run, lock)

    def _log_settings(self, run: TrackedRun) -> None:
        """Log `config.yaml`, which starts or continues the search, as an artifact."""
        settings = {**self.plan.record(), "study": self.study.study_name}
        run.log_text(SETTINGS_FILE, format_values(settings, is_public=True))

    def _open_parent_run(self, run_id: str | None) -> AbstractContextManager[TrackedRun]:
        """Resume the parent run, or open a new one; its status is set on exit."""
        if run_id is not None:
            self._check_not_deleted(run_id, "the parent run of the study")
        return open_run(
            self.client,
            experiment=self.plan.base.config.experiment,
            name=self.plan.base.config.run_name or self.study.study_name,
            tags={"trialrun.version": version("trialrun"), "study": self.study.study_name},
            run_id=run_id,
        )

    def _check_not_deleted(self, run_id: str, role: str) -> None:
        name = self.study.study_name
        hint = f"give another --study with --from-study {name}, which tries the best settings first"
        check_not_deleted(self.client, run_id, role, hint)

    def _join_owner(self) -> SearchResult:
        """Train trials beside the owner, then return the owner's result."""
        parent_run_id = self._wait_for_parent_run()
        self.callback.on_note(f"study {self.study.study_name} is already running: joining it")
        self._train_trials(parent_run_id)
        return self._wait_for_owner(parent_run_id, wait=not self._is_timed_out())

    def _wait_for_owner(self, parent_run_id: str, *, wait: bool) -> SearchResult:
        """Return the owner's result; if the owner died, finalize here."""
        with self._owner_lock(wait=wait) as lock:
            if lock and not self._is_finalized():
                with self._open_parent_run(parent_run_id) as run:
                    return self._finalize_once(run, lock)
        return self._build_result(parent_run_id)

    def _finalize_once(self, run: TrackedRun, lock: LockHandle) -> SearchResult:
        """Train the replicates and finalize, unless another process took the lock."""
        noise_floor = self._run_replicates(run.run_id)
        if lock.is_held():
            return self._finalize(run, noise_floor)
        self.callback.on_note(
            "the storage connection was lost: another process finalizes the search"
        )
        return self._wait_for_owner(run.run_id, wait=True)

    def _wait_for_parent_run(self) -> str:
        deadline = time.monotonic() + _PARENT_RUN_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            run_id: str | None = self.study.user_attrs.get(attrs.PARENT_RUN)
            if run_id is not None:
                return run_id
            time.sleep(POLL_SECONDS)
        raise TrackingError(
            f"study {self.study.study_name} is locked, but has no parent run",
            "Check the process that created it, or give another --study.",
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
        self.stop_reason = self._find_stop_reason()  # replicates may outlast the deadline

    def _train(self, study: "Study", parent_run_id: str) -> None:
        """Train the trials of a study in this process or in worker processes."""
        queue = self._open_queue(study)
        division = divide_processors(self.plan, queue.count_remaining())
        if division.reason:
            self.callback.on_note(division.text())
        log_ended_trials = TrialLogger(study, self.plan, self.callback)
        if division.num_workers > 1:
            WorkerPool(queue, parent_run_id, division, log_ended_trials).run()
        else:
            from trialrun.engine.compute.torch_state import isolate_torch_state

            with isolate_torch_state():
                self._train_here(queue, parent_run_id, log_ended_trials)
        self._delete_leftovers(study)

    def _delete_leftovers(self, study: "Study") -> None:
        """Delete what killed workers of this machine left of trials that have ended."""
        from trialrun.tuning.workers.earlier_runs import EarlierRuns

        runs = list_ended_runs(study.get_trials(deepcopy=False), self.plan.config.retries)
        EarlierRuns(self.plan.base.config.checkpoint_dir).delete(runs)

    def _train_here(
        self, queue: TrialQueue, parent_run_id: str, on_poll: Callable[[], None]
    ) -> None:
        if self.runner is None:
            from trialrun.tuning.workers.trial_runner import TrialRunner

            experiment_id = TrackedRun(self.client, parent_run_id).experiment_id
            self.runner = TrialRunner(self.plan, parent_run_id, experiment_id, self.callback)
            self.runner.check_same_data(self.study, self.storage)
        worker = make_worker_name()
        try:
            run_trials(queue, self.runner, worker, on_poll)
        except BaseException:
            queue.requeue_worker(worker)
            raise

    def _open_queue(self, study: "Study") -> TrialQueue:
        return open_trial_queue(
            self.storage,
            study,
            self.plan,
            deadline=self.deadline,
            on_stale=partial(end_lost_run, self.client),
        )

    def _is_finalized(self) -> bool:
        outcome: Mapping[str, Any] | None = self.study.user_attrs.get(attrs.FINALIZED)
        return outcome is not None and outcome["trials"] >= self._count_done()

    def _count_done(self) -> int:
        return sum(map(is_done, self.study.get_trials(deepcopy=False)))

    def _finalize(self, run: TrackedRun, noise_floor: NoiseFloor | None) -> SearchResult:
        """Log the best trial, the plots and the table, register the best model."""
        trials = self.study.get_trials(deepcopy=False)
        best = self._find_best(noise_floor)
        if best is not None:
            log_best(run, best, trials, self.plan, noise_floor)
            link_best(self.client, run, best)
            log_plots(run, self.study, self.plan, self.callback)
        log_trials(run, trials, self.plan)
        end_orphaned_runs(self.client, run.experiment_id, run.run_id, self._list_running_runs)
        if best is None:
            raise TrialrunError(
                f"none of {len(trials)} trials completed",
                "Allow more time or trials, or read the error tags of the failed runs.",
            )
        self._register(run, best)
        floor = noise_floor.to_dict() if noise_floor else None
        outcome = {"trials": self._count_done(), "floor": floor, "best": best.number}
        self.study.set_user_attr(attrs.FINALIZED, outcome)
        return self._build_result(run.run_id)

    def _run_replicates(self, parent_run_id: str) -> NoiseFloor | None:
        """Train the replicates, if any are requested, and return their noise floor."""
        if not self.plan.config.replicates:
            return None
        replicates = open_replicate_study(self.storage, self.study, self.plan)
        if replicates is None:
            self.callback.on_note("no replicates: fewer than two settings completed")
            return None
        self._train(replicates, parent_run_id)
        noise_floor = compute_noise_floor(replicates.get_trials(deepcopy=False), self.plan)
        missing = "no noise floor: no two settings completed with two common seeds"
        self.callback.on_note(noise_floor.text() if noise_floor else missing)
        return noise_floor

    def _find_best(self, noise_floor: NoiseFloor | None) -> "FrozenTrial | None":
        trials = self.study.get_trials(deepcopy=False)
        if noise_floor is not None:
            return trials[noise_floor.chosen]
        return next(iter(sort_by_objective(trials, self.plan.objectives)), None)

    def _list_running_runs(self) -> set[str]:
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {str(trial.user_attrs.get(attrs.RUN_ID)) for trial in running}

    def _register(self, run: TrackedRun, best: "FrozenTrial") -> None:
        name = self.plan.base.config.register_as
        if name is None:
            return
        self._check_not_deleted(best.user_attrs[attrs.RUN_ID], "the run of the best trial")
        number = register_best(
            self.client,
            name=name,
            model_uri=best.user_attrs.get(attrs.MODEL_URI),
            run_id=best.user_attrs[attrs.RUN_ID],
        )
        run.set_tags({"model_name": name, "model_version": number})

    def _build_result(self, run_id: str) -> SearchResult:
        trials = self.study.get_trials(deepcopy=False)
        outcome = self.study.user_attrs.get(attrs.FINALIZED) or {}
        ranked = sort_by_objective(trials, self.plan.objectives)
        if not ranked:
            raise TrialrunError("no trial completed", "Allow more time or trials.")
        best = trials[outcome["best"]] if "best" in outcome else ranked[0]
        tags = self.client.get_run(run_id).data.tags
        has_front = len(self.plan.objectives) > 1
        train_result = dict(best.user_attrs[attrs.RESULT])
        train_result |= {"run_id": run_id, "status": "FINISHED"}
        train_result |= {name: tags.get(name) for name in ("model_name", "model_version")}
        return SearchResult(
            **train_result,
            study=self.study.study_name,
            storage=redact_password(self.storage.url),
            search_stop_reason=self.stop_reason,
            num_trials=count_by_state(trials),
            best_trial=best.number,
            best_run_id=best.user_attrs[attrs.RUN_ID],
            best_params=best.params,
            pareto_trials=tuple(t.number for t in self.study.best_trials) if has_front else (),
            noise_floor=outcome.get("floor"),
        )

    def _find_stop_reason(self) -> str:
        if self._count_done() >= self.plan.config.trials:
            return "completed"
        return "time_budget" if self._is_timed_out() else "exhausted"

    def _is_timed_out(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def _link_project_run(self, result: SearchResult) -> None:
        """Tag the run that `mlflow run` opened with the parent run's id, if they differ."""
        project_run = find_project_run()
        if project_run is not None and project_run != result.run_id:
            TrackedRun(self.client, project_run).set_tags(
                {"search_run_id": result.run_id, "study": result.study}
            )
