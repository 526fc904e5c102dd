"""One trial in this process: its run below the search's, reported to the desk epoch by epoch.

Torch, the images and MLflow's client are there once for all trials of the process.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trialrun.engine.early_stopping import PRUNED, EpochStatus, PrunedError
from trialrun.engine.inputs.seeds import derive_seed
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
from trialrun.tuning.plan import SearchPlan, as_minimized, plan_trial
from trialrun.tuning.space import format_settings
from trialrun.tuning.study import trial_queue as kept
from trialrun.tuning.study.study import DATA, MODELS_KEPT
from trialrun.tuning.study.trial_queue import ClaimedTrial, TrialQueue, sort_by_objective

if TYPE_CHECKING:
    from optuna import Study

_STUDY_TAG, _TRIAL_TAG = "study", "trial"

# Not the trial's fault, and no other trial would fare better.
_NOT_OF_THE_TRIAL = (DataError, InvalidModelDirectoryError, StorageError, TrackingError)


@dataclass(slots=True)
class TrialRunner:
    """Where this process trains: the images, decoded once for every size that is asked for."""

    plan: SearchPlan
    parent_run_id: str
    experiment_id: str  # the parent's
    callback: RunCallback
    prepared: dict[tuple[object, ...], PreparedData] = field(default_factory=dict)

    def data(self, plan: TrainPlan) -> PreparedData:
        """The images of a trial; those of the first are the others' too."""
        config = plan.config
        expected = describe_initial(plan).expected_input
        kind = (config.image_size, config.augment, config.transforms, expected)  # decides pixels
        if kind not in self.prepared:
            self.prepared[kind] = prepare_data(plan, self.callback)
        return self.prepared[kind]

    def check_same_data(self, study: "Study") -> None:
        """Hold this machine's images to those that the study was begun with.

        Raises:
            InvalidDatasetError: They are others.
        """
        data = self.data(self.plan.base)
        ours = f"{truncate_digest(data.train.scan)} {truncate_digest(data.valid.scan)}"
        theirs = study.user_attrs.get(DATA)
        if theirs is None:
            study.set_user_attr(DATA, ours)
        elif theirs != ours:
            raise InvalidDatasetError(
                f"study {study.study_name} was begun with other images",
                "Give it the same train_data and valid_data, or another --study.",
            )

    def run(self, queue: TrialQueue, claim: ClaimedTrial) -> None:
        """Train a trial and tell the desk what came of it.

        Raises:
            TrialrunError: Data, model, disk or tracking store are at fault, not the settings.
            RunInterruptedError: A signal came; the trial is back in the queue.
        """
        if not self._fits(queue, claim):
            # Not while the error is handled: until then the frames it names hold the tensors.
            _free_memory()

    def _fits(self, queue: TrialQueue, claim: ClaimedTrial) -> bool:
        """Train a trial and tell the desk; False where memory did not suffice."""
        import optuna.exceptions

        try:
            with queue.heartbeat(claim):
                self._train(queue, claim)
        except RunInterruptedError as cut:
            queue.requeue(claim, str(cut))
            raise
        except OutOfMemoryError:
            queue.prune_out_of_memory(claim, self._plan_of(claim).config.batch_size)
            return False
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # silent for too long: another worker has the trial by now
        except _NOT_OF_THE_TRIAL as error:
            queue.requeue(claim, f"{type(error).__name__}: {error}")
            raise
        except Exception as error:
            queue.fail(claim, f"{type(error).__name__}: {error}")
        return True

    def _train(self, queue: TrialQueue, claim: ClaimedTrial) -> None:
        plan = self._plan_of(claim)
        nested = NestedRun(
            parent_run_id=self.parent_run_id,
            experiment_id=self.experiment_id,
            name=_name_trial(claim),
            tags=_build_tags(queue, claim, self.plan),
            data=self.data(plan),
            keeps_model=lambda result: _is_among_best(queue, claim, result, self.plan),
        )
        result = train_run(plan, _PruningCallback(queue, claim, self.plan), nested=nested)
        if result.stop_reason == PRUNED:
            queue.prune(claim)
            return
        values = _read_objectives(result, self.plan)
        queue.note(claim, kept.RESULT, result.to_json())
        if result.model_uri:
            queue.note(claim, kept.MODEL_URI, result.model_uri)
        queue.complete(claim, values)

    def _plan_of(self, claim: ClaimedTrial) -> TrainPlan:
        purpose = "replicate" if kept.REPLICATE in claim.trial.user_attrs else "trial"
        seed = derive_seed(self.plan.base.config.random_seed, purpose, claim.seed_number)
        return plan_trial(self.plan.base, claim.settings, seed)


def _read_objectives(result: TrainResult, plan: SearchPlan) -> list[float]:
    """What a trial is judged by, of its best epoch.

    Raises:
        ValueError: One of them is no number.
    """
    values = [result.metrics[objective.metric] for objective in plan.objectives]
    for objective, value in zip(plan.objectives, values, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"{objective.metric} is {value}")
    return values


def _free_memory() -> None:
    """Give back what the trial that did not fit has taken, for the next one."""
    import gc

    import torch

    from trialrun.engine.compute.allocator import release_freed_memory

    gc.collect()
    release_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _name_trial(claim: ClaimedTrial) -> str:
    attributes = claim.trial.user_attrs
    if kept.REPLICATE in attributes:
        return f"trial-{attributes[kept.OF_TRIAL]:03}-replicate-{attributes[kept.REPLICATE]}"
    return f"trial-{claim.number:03}"


def _build_tags(queue: TrialQueue, claim: ClaimedTrial, plan: SearchPlan) -> dict[str, str]:
    """What finds a trial among MLflow's runs, and what its seed does not say: the split's."""
    attributes = claim.trial.user_attrs
    tags = {
        _STUDY_TAG: queue.study.study_name,
        _TRIAL_TAG: str(claim.number),
        "split_seed": str(plan.base.config.random_seed),
    }
    if kept.REPLICATE in attributes:
        tags |= {
            "of_trial": str(attributes[kept.OF_TRIAL]),
            "replicate": str(attributes[kept.REPLICATE]),
        }
    return tags


def _is_among_best(
    queue: TrialQueue, claim: ClaimedTrial, result: TrainResult, plan: SearchPlan
) -> bool:
    """Whether the model may be wanted in the end: so far too few settings are better.

    Whatever is among the best in the end was so when it ended, so that its model is there.
    """
    if kept.REPLICATE in claim.trial.user_attrs:
        return False
    values = as_minimized(_read_objectives(result, plan), plan.objectives)
    others = [
        (format_settings(trial.params), as_minimized(trial.values, plan.objectives))
        for trial in sort_by_objective(queue.study.get_trials(deepcopy=False), plan.objectives)
    ]
    better = {settings for settings, theirs in others if theirs < values}
    if len(better) < queue.study.user_attrs[MODELS_KEPT]:
        return True
    return len(plan.objectives) > 1 and not any(_dominates(theirs, values) for _, theirs in others)


def _dominates(ours: list[float], theirs: list[float]) -> bool:
    """Whether one is nowhere worse and somewhere better, smaller being better."""
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


class _PruningCallback(NoOpCallback):
    """Tells the desk of a trial's run and epochs, and ends it where the pruner says so."""

    def __init__(self, queue: TrialQueue, claim: ClaimedTrial, plan: SearchPlan) -> None:
        self._desk, self._claim, self._plan = queue, claim, plan

    def on_run_start(self, run_name: str, run_id: str) -> None:
        """Keep the run's id with the trial, so that it is ended should this worker be lost."""
        self._desk.note(self._claim, kept.RUN_ID, run_id)

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Report the epoch; Optuna takes reports of a single metric only."""
        is_last = status.stop_reason is not None
        if len(self._plan.objectives) > 1 or kept.REPLICATE in self._claim.trial.user_attrs:
            return
        value = status.result.metrics()[self._plan.objectives[0].metric]
        if self._desk.report(self._claim, value, status.result.epoch) and not is_last:
            raise PrunedError(f"pruned after epoch {status.result.epoch}")


def assign_device(plan: SearchPlan, place: int) -> SearchPlan:
    """The plan of the worker at `place`: where there are several GPUs, one of them."""
    import torch

    if plan.base.config.device != "auto" or torch.cuda.device_count() < 2:
        return plan
    device = f"cuda:{place % torch.cuda.device_count()}"
    return replace(plan, base=replace(plan.base, config=replace(plan.base.config, device=device)))
