"""The trial runner of a process: trains trials as nested runs and reports them to the queue.

All trials of a process share torch and the decoded images.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trialrun.checkpoint.run_folder import RunLockedError
from trialrun.engine.early_stopping import PRUNED, EpochStatus, PrunedError
from trialrun.engine.memory.release import release_memory
from trialrun.errors import (
    DataError,
    InvalidDatasetError,
    InvalidModelDirectoryError,
    OutOfMemoryError,
    RunInterruptedError,
    StorageError,
    TrackingError,
)
from trialrun.mlflow_client import connect_client
from trialrun.models.weights.published import fetch_default_file
from trialrun.models.weights.serialization import StateMemory, remember_state
from trialrun.runs.callbacks import BatchProgress, NoOpCallback, RunCallback
from trialrun.runs.training.initial import fetch_or_warn
from trialrun.runs.training.inputs.backbones import BackboneMemory
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.run import NestedRun, train_run
from trialrun.tracking import TrackedRun, truncate_digest
from trialrun.tuning.objectives import as_minimized
from trialrun.tuning.plan import SearchPlan, derive_trial_seed, plan_trial
from trialrun.tuning.space import format_settings
from trialrun.tuning.study import attrs
from trialrun.tuning.study.claims import ClaimedTrial
from trialrun.tuning.study.storage import StudyStorage
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.study.trials import sort_by_objective
from trialrun.tuning.workers.earlier_runs import EarlierRuns

if TYPE_CHECKING:
    from optuna import Study

_STUDY_TAG, _TRIAL_TAG = "study", "trial"

# Errors that other trials would have too.
_SHARED_ERRORS = (DataError, InvalidModelDirectoryError, StorageError, TrackingError)


@dataclass(slots=True)
class TrialRunner:
    """Trains trials; decodes the images once per preprocessing."""

    plan: SearchPlan
    parent_run_id: str
    experiment_id: str  # of the parent run
    callback: RunCallback
    _prepared: dict[tuple[object, ...], PreparedData] = field(default_factory=dict)
    _backbones: BackboneMemory = field(default_factory=BackboneMemory)
    _state_memory: StateMemory = field(default_factory=StateMemory)
    _study: "Study | None" = None
    _storage: StudyStorage | None = None

    def load_data(self, plan: TrainPlan) -> PreparedData:
        """Return the images of a trial; trials with equal preprocessing share them."""
        config = plan.config
        # The settings that the initial weights and the prepared pixels depend on.
        key = (
            *(config.model, config.weights, config.image_size, config.fit, config.value_range),
            *(config.augment, config.transforms),
        )
        if key not in self._prepared:
            data = prepare_data(plan, self.callback, fetch=self._fetch_once)
            self._prepared[key] = replace(data, backbones=self._backbones)
        return self._prepared[key]

    def _fetch_once(self, architecture: str, note: Callable[[str], None]) -> bool:
        """Fetch pretrained weights for the first trial of a study that needs them.

        All other trials follow the outcome, so that they start from the same weights. A lock makes
        the others wait for it.

        Raises:
            InvalidParameterError: Earlier trials had the weights, and this machine cannot.
        """
        study, storage = self._study, self._storage
        assert study is not None, "the images are compared first"
        assert storage is not None
        name = f"{attrs.PRETRAINED}{architecture}"
        with storage.lock(f"{study.study_name}/weights"):
            known: bool | None = study.user_attrs.get(name)
            if known is None:
                known = fetch_or_warn(architecture, note)
                study.set_user_attr(name, known)
                return known
        if known:
            fetch_default_file(architecture)
        return known

    def check_same_data(self, study: "Study", storage: StudyStorage) -> None:
        """Compare this machine's images with the study's; store them in a new study.

        Raises:
            InvalidDatasetError: They differ.
        """
        self._study, self._storage = study, storage
        data = self.load_data(self.plan.base)
        current = f"{truncate_digest(data.train.scan)} {truncate_digest(data.valid.scan)}"
        stored = study.user_attrs.get(attrs.DATA)
        if stored is None:
            study.set_user_attr(attrs.DATA, current)
        elif stored != current:
            raise InvalidDatasetError(
                f"study {study.study_name} was created with other images",
                "Give the same train_data and valid_data, or another --study.",
            )

    def run(self, queue: TrialQueue, claim: ClaimedTrial) -> None:
        """Train a trial and report its outcome to the queue.

        Raises:
            TrialrunError: The data, the model, the disk or the tracking store failed.
            RunInterruptedError: A signal was received; the trial is requeued.
        """
        if not self._train_and_report(queue, claim):
            # After the except block, which refers to the error.
            release_memory()

    def _train_and_report(self, queue: TrialQueue, claim: ClaimedTrial) -> bool:
        """Train a trial and report its outcome; return False if it ran out of memory."""
        import optuna.exceptions

        callback = _PruningCallback(queue, claim, self.plan, self.callback)
        fits_in_memory = True
        try:
            with queue.heartbeat(claim), remember_state(self._state_memory):
                has_ended = self._train(queue, claim, callback)
        except (_TrialLostError, optuna.exceptions.UpdateFinishedTrialError):
            has_ended = False
        except RunInterruptedError as interrupt:
            queue.requeue(claim, str(interrupt))
            raise
        except OutOfMemoryError:
            batch_size = self._plan_trial(claim).config.batch_size
            has_ended = queue.prune_out_of_memory(claim, batch_size)
            fits_in_memory = False
        except _SHARED_ERRORS as error:
            queue.requeue(claim, f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            has_ended = queue.fail(claim, f"{type(error).__name__}: {error}")
        self._delete_run_data(queue, claim, callback.run_id, is_lost=not has_ended)
        return fits_in_memory

    def _delete_run_data(
        self, queue: TrialQueue, claim: ClaimedTrial, run_id: str | None, *, is_lost: bool
    ) -> None:
        """Delete checkpoints that no trial will need: those of all tries of an ended trial.

        Of a trial that was given to another worker, only the run of this process, `run_id`.
        """
        runs = [*filter(None, [run_id])]
        if not is_lost:
            runs += queue.list_earlier_runs(claim)
        elif not queue.end_run_of_lost(claim):
            runs = []
        self._earlier_runs.delete(set(runs))

    def _train(self, queue: TrialQueue, claim: ClaimedTrial, callback: "_PruningCallback") -> bool:
        """Train a trial; return False if it was given to another worker."""
        plan = self._plan_trial(claim)
        nested = NestedRun(
            parent_run_id=self.parent_run_id,
            experiment_id=self.experiment_id,
            name=_name_trial(claim),
            tags=_build_tags(queue, claim, self.plan),
            data=self.load_data(plan),
            keeps_model=lambda result: _is_among_best(queue, claim, result, self.plan),
        )
        result = self._continue_run(queue, claim, plan, nested, callback)
        result = result or train_run(plan, callback, nested=nested)
        if result.stop_reason == PRUNED:
            return queue.prune(claim)
        values = _select_objectives(result, self.plan)
        queue.set_attr(claim, attrs.RESULT, result.to_json())
        if result.model_uri:
            queue.set_attr(claim, attrs.MODEL_URI, result.model_uri)
        return queue.complete(claim, values)

    def _continue_run(
        self,
        queue: TrialQueue,
        claim: ClaimedTrial,
        plan: TrainPlan,
        nested: NestedRun,
        callback: RunCallback,
    ) -> TrainResult | None:
        """Continue the run of a retried trial; None if that is not possible."""
        run_id = queue.take_over_run(claim, self._earlier_runs.can_continue)
        if run_id is None:
            return None
        found = self._earlier_runs.read(run_id, plan, nested.data)
        if isinstance(found, TrainResult):  # its worker was killed before it reported the trial
            TrackedRun(connect_client(), run_id).set_tags(nested.tags)
            return found
        if found is not None:
            with suppress(RunLockedError):  # `trialrun sync` may send its records right now
                return train_run(plan, callback, nested=nested, resumed=found)
        return None

    @property
    def _earlier_runs(self) -> EarlierRuns:
        return EarlierRuns(self.plan.base.config.checkpoint_dir)

    def _plan_trial(self, claim: ClaimedTrial) -> TrainPlan:
        seed = derive_trial_seed(
            self.plan.base.config.random_seed,
            claim.seed_number,
            is_replicate=attrs.REPLICATE in claim.trial.user_attrs,
        )
        return plan_trial(self.plan.base, claim.settings, seed)


def _select_objectives(result: TrainResult, plan: SearchPlan) -> list[float]:
    """Return the values of the objectives at the best epoch.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    values = [result.metrics[objective.metric] for objective in plan.objectives]
    for objective, value in zip(plan.objectives, values, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{objective.metric} is {value}")
    return values


def _name_trial(claim: ClaimedTrial) -> str:
    attributes = claim.trial.user_attrs
    if attrs.REPLICATE in attributes:
        return f"trial-{attributes[attrs.REPLICATE_OF]:03}-replicate-{attributes[attrs.REPLICATE]}"
    return f"trial-{claim.number:03}"


def _build_tags(queue: TrialQueue, claim: ClaimedTrial, plan: SearchPlan) -> dict[str, str]:
    """Return the tags that identify a trial, and the seed of the data split."""
    attributes = claim.trial.user_attrs
    tags = {
        _STUDY_TAG: queue.study.study_name,
        _TRIAL_TAG: str(claim.number),
        "split_seed": str(plan.base.config.random_seed),
    }
    if claim.earlier_tries:
        tags["retry_of"] = str(claim.earlier_tries[0])
    if attrs.REPLICATE in attributes:
        tags |= {
            "of_trial": str(attributes[attrs.REPLICATE_OF]),
            "replicate": str(attributes[attrs.REPLICATE]),
        }
    return tags


def _is_among_best(
    queue: TrialQueue, claim: ClaimedTrial, result: TrainResult, plan: SearchPlan
) -> bool:
    """Whether the trial is among the best so far, so that its model is logged.

    A trial that is among the best at the end was so when it ended: its model is always logged.
    """
    if attrs.REPLICATE in claim.trial.user_attrs:
        return False
    values = as_minimized(_select_objectives(result, plan), plan.objectives)
    completed = [
        (format_settings(trial.params), as_minimized(trial.values, plan.objectives))
        for trial in sort_by_objective(queue.study.get_trials(deepcopy=False), plan.objectives)
    ]
    better_settings = {settings for settings, others in completed if others < values}
    if len(better_settings) < queue.study.user_attrs[attrs.NUM_MODELS]:
        return True
    return len(plan.objectives) > 1 and not any(
        _dominates(others, values) for _, others in completed
    )


def _dominates(values: list[float], others: list[float]) -> bool:
    """Whether `values` are nowhere higher than `others` and somewhere lower."""
    return values != others and all(a <= b for a, b in zip(values, others, strict=True))


class _TrialLostError(RunInterruptedError):
    """The queue gave the trial to another worker, because this one was silent for too long.

    Its run ends as that of any interrupted process: as KILLED.
    """

    def __init__(self) -> None:
        super().__init__("")
        # Replaces "stopped by …": no signal stopped the trial. The run's tag `error` has this text.
        self.args = ("the worker sent no heartbeats, and its trial was retried",)


@contextmanager
def _translate_lost_trial() -> Iterator[None]:
    """Raise Optuna's error for a trial that has ended already as `_TrialLostError`."""
    import optuna.exceptions

    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise _TrialLostError from error


class _PruningCallback(NoOpCallback):
    """Reports a trial's run and epochs to the queue, and ends a pruned trial.

    Batches are reported to the callback of the search.
    """

    def __init__(
        self, queue: TrialQueue, claim: ClaimedTrial, plan: SearchPlan, callback: RunCallback
    ) -> None:
        self._queue, self._claim, self._plan = queue, claim, plan
        self._callback = callback
        self.run_id: str | None = None  # of the run that this process has opened

    @property
    def batch_interval(self) -> float | None:
        """That of the callback of the search."""
        return self._callback.batch_interval

    def on_batch(self, progress: BatchProgress) -> None:
        """Report the batch to the callback of the search."""
        self._callback.on_batch(progress)

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Store the run's id in the trial: if this worker is lost, another ends the run."""
        self.run_id = run_id
        with _translate_lost_trial():
            self._queue.set_attr(self._claim, attrs.RUN_ID, run_id)

    def on_resume(self, epochs: Sequence[Mapping[str, float]], stop_reason: str | None) -> None:
        """Report the epochs of the earlier tries: each try is a trial of its own to Optuna."""
        is_hopeless = False
        for epoch, metrics in enumerate(epochs, start=1):
            is_hopeless = self._report(metrics, epoch)
        if is_hopeless and stop_reason is None:
            raise PrunedError(f"pruned after epoch {len(epochs)}")

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Report the epoch, and end a pruned trial."""
        is_hopeless = self._report(status.result.metrics(), status.result.epoch)
        if is_hopeless and status.stop_reason is None:
            raise PrunedError(f"pruned after epoch {status.result.epoch}")

    def _report(self, metrics: Mapping[str, float], epoch: int) -> bool:
        """Report an epoch; return whether the pruner ends the trial.

        Optuna accepts reports for a single objective only.
        """
        if len(self._plan.objectives) > 1 or attrs.REPLICATE in self._claim.trial.user_attrs:
            return False
        with _translate_lost_trial():
            return self._queue.report(self._claim, metrics[self._plan.objectives[0].metric], epoch)


def assign_device(plan: SearchPlan, index: int) -> SearchPlan:
    """Return the plan of worker `index`, on one of the GPUs if there are several."""
    import torch

    if plan.base.config.device != "auto" or torch.cuda.device_count() < 2:
        return plan
    device = f"cuda:{index % torch.cuda.device_count()}"
    return replace(plan, base=replace(plan.base, config=replace(plan.base.config, device=device)))
