"""The trial runner of a process: trains trials as nested runs and reports them to the queue.

All trials of a process share torch and the decoded images.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trialrun.engine.early_stopping import PRUNED, EpochStatus, PrunedError
from trialrun.engine.inputs.seeds import derive_seed
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
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.initial import describe_initial
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.result import TrainResult
from trialrun.runs.training.run import NestedRun, train_run
from trialrun.tracking import truncate_digest
from trialrun.tuning.objectives import as_minimized
from trialrun.tuning.plan import SearchPlan, plan_trial
from trialrun.tuning.space import format_settings
from trialrun.tuning.study import attrs
from trialrun.tuning.study.trial_queue import ClaimedTrial, TrialQueue
from trialrun.tuning.study.trials import sort_by_objective

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

    def load_data(self, plan: TrainPlan) -> PreparedData:
        """Return the images of a trial; trials with equal preprocessing share them."""
        config = plan.config
        expected = describe_initial(plan).expected_input
        # The settings that the prepared pixels depend on.
        key = (config.image_size, config.augment, config.transforms, expected)
        if key not in self._prepared:
            self._prepared[key] = prepare_data(plan, self.callback)
        return self._prepared[key]

    def check_same_data(self, study: "Study") -> None:
        """Compare this machine's images with the study's; store them in a new study.

        Raises:
            InvalidDatasetError: They differ.
        """
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

        try:
            with queue.heartbeat(claim):
                self._train(queue, claim)
        except _TrialLostError:
            pass  # its run has ended as KILLED
        except RunInterruptedError as interrupt:
            queue.requeue(claim, str(interrupt))
            raise
        except OutOfMemoryError:
            queue.prune_out_of_memory(claim, self._plan_trial(claim).config.batch_size)
            return False
        except optuna.exceptions.UpdateFinishedTrialError:
            queue.end_run_of_lost(claim)
        except _SHARED_ERRORS as error:
            queue.requeue(claim, f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            queue.fail(claim, f"{type(error).__name__}: {error}")
        return True

    def _train(self, queue: TrialQueue, claim: ClaimedTrial) -> None:
        plan = self._plan_trial(claim)
        nested = NestedRun(
            parent_run_id=self.parent_run_id,
            experiment_id=self.experiment_id,
            name=_name_trial(claim),
            tags=_build_tags(queue, claim, self.plan),
            data=self.load_data(plan),
            keeps_model=lambda result: _is_among_best(queue, claim, result, self.plan),
        )
        result = train_run(plan, _PruningCallback(queue, claim, self.plan), nested=nested)
        if result.stop_reason == PRUNED:
            if not queue.prune(claim):
                queue.end_run_of_lost(claim)
            return
        values = _select_objectives(result, self.plan)
        queue.set_attr(claim, attrs.RESULT, result.to_json())
        if result.model_uri:
            queue.set_attr(claim, attrs.MODEL_URI, result.model_uri)
        if not queue.complete(claim, values):
            queue.end_run_of_lost(claim)

    def _plan_trial(self, claim: ClaimedTrial) -> TrainPlan:
        purpose = "replicate" if attrs.REPLICATE in claim.trial.user_attrs else "trial"
        seed = derive_seed(self.plan.base.config.random_seed, purpose, claim.seed_number)
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
    """Reports a trial's run and epochs to the queue, and ends a pruned trial."""

    def __init__(self, queue: TrialQueue, claim: ClaimedTrial, plan: SearchPlan) -> None:
        self._queue, self._claim, self._plan = queue, claim, plan

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Store the run's id in the trial: if this worker is lost, another ends the run."""
        with _translate_lost_trial():
            self._queue.set_attr(self._claim, attrs.RUN_ID, run_id)

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Report the epoch; Optuna accepts reports for a single objective only."""
        is_last = status.stop_reason is not None
        if len(self._plan.objectives) > 1 or attrs.REPLICATE in self._claim.trial.user_attrs:
            return
        value = status.result.metrics()[self._plan.objectives[0].metric]
        with _translate_lost_trial():
            is_hopeless = self._queue.report(self._claim, value, status.result.epoch)
        if is_hopeless and not is_last:
            raise PrunedError(f"pruned after epoch {status.result.epoch}")


def assign_device(plan: SearchPlan, index: int) -> SearchPlan:
    """Return the plan of worker `index`, on one of the GPUs if there are several."""
    import torch

    if plan.base.config.device != "auto" or torch.cuda.device_count() < 2:
        return plan
    device = f"cuda:{index % torch.cuda.device_count()}"
    return replace(plan, base=replace(plan.base, config=replace(plan.base.config, device=device)))
