"""A study in its storage: made or gone on with, and what waits in it to be tried first."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialrun.config import TrainConfig
from trialrun.errors import InvalidParameterError
from trialrun.tuning.plan import Objective, SearchPlan, redact_password
from trialrun.tuning.study.samplers import make_pruner
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors
from trialrun.tuning.study.trial_queue import SETTINGS, TrialQueue, sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

# What a study carries.
_SIGNATURE, PARENT_RUN, CONCLUDED, DATA = "signature", "parent_run_id", "concluded", "data_digest"
MODELS_KEPT = "models_kept"  # of how many of its best settings

_NUM_STARTS = 3  # taken from another study


def generate_name() -> str:
    """A name that no study has."""
    return f"search-{secrets.token_hex(4)}"


def open_study(storage: StudyStorage, name: str, plan: SearchPlan) -> "Study":
    """The study called `name`, made if it is not there, with what is to be tried first.

    Raises:
        InvalidParameterError: It is there and searches something else, or `from_study` is not.
        TrackingError: The storage fails.
    """
    import optuna

    with translate_optuna_errors(storage.url), silence_optuna(), storage.lock(f"{name}/trials"):
        others = _load_other_study(storage, plan)
        study = optuna.create_study(
            study_name=name,
            storage=storage.rdb,
            directions=list_directions(plan),
            pruner=make_pruner(plan),
            load_if_exists=True,
        )
        _check_signature(study, plan)
        _check_models(study, plan)
        for settings in _list_enqueued(plan, others):
            study.enqueue_trial(settings, skip_if_exists=True)
    return study


def load_study(storage: StudyStorage, name: str, plan: SearchPlan) -> "Study":
    """The study called `name`, which is there: a storage keeps no pruner, so the plan's is set."""
    import optuna

    return optuna.load_study(study_name=name, storage=storage.rdb, pruner=make_pruner(plan))


def list_directions(plan: SearchPlan) -> "list[StudyDirection]":
    """Which way is better, in Optuna's words."""
    from optuna.study import StudyDirection

    return [StudyDirection[objective.direction.upper()] for objective in plan.objectives]


def _check_signature(study: "Study", plan: SearchPlan) -> None:
    ours, theirs = plan.signature(), study.user_attrs.get(_SIGNATURE)
    if theirs is None:
        study.set_user_attr(_SIGNATURE, ours)
        return
    names = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    if names:
        told = ", ".join(f"{name}={theirs.get(name)}" for name in names)
        raise InvalidParameterError(
            f"study {study.study_name} was begun with {told}",
            "Give the same settings, or another --study.",
        )


def _check_models(study: "Study", plan: SearchPlan) -> None:
    """Have the models of as many settings kept as replicates may choose from, from the beginning.

    A better setting whose model was not kept could be neither compared nor registered.
    """
    from optuna.trial import TrialState

    wanted = plan.config.finalists if plan.config.replicates else 1
    kept = study.user_attrs.get(MODELS_KEPT)
    trained = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if trained and wanted > (kept or 1):
        raise InvalidParameterError(
            f"study {study.study_name} has kept models of its {kept or 1} best settings only, "
            f"and replicates of {wanted} finalists need as many",
            f"Begin another --study with --from-study {study.study_name}: its best settings are "
            "tried first there.",
        )
    if kept is None or wanted > kept:
        study.set_user_attr(MODELS_KEPT, wanted)


def _list_enqueued(plan: SearchPlan, others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is to be tried first: the defaults, the file's, another study's best; not of a grid."""
    if plan.config.sampler == "grid":
        return []  # its points are put there one by one: those that fail give way to others
    defaults = {name: getattr(TrainConfig(), name) for name in plan.space.dimensions}
    enqueued_params = [defaults, *plan.enqueued_params, *others]
    fitting = [plan.space.fitting(settings) for settings in enqueued_params]
    return [settings for settings in fitting if settings]


def _load_other_study(storage: StudyStorage, plan: SearchPlan) -> Sequence[Mapping[str, Any]]:
    import optuna

    name = plan.config.from_study
    if name is None:
        return []
    try:
        other = optuna.load_study(study_name=name, storage=storage.rdb)
    except KeyError:
        raise InvalidParameterError(
            f"from_study={name}: there is no such study in {redact_password(storage.url)}",
            "`optuna studies --storage URL` lists those there are.",
        ) from None
    objectives = [Objective("", way.name.lower()) for way in other.directions]
    return [
        trial.params for trial in sort_by_objective(other.get_trials(), objectives)[:_NUM_STARTS]
    ]


def open_trial_queue(
    storage: StudyStorage,
    study: "Study",
    plan: SearchPlan,
    *,
    deadline: float | None,
    on_stale: Callable[["FrozenTrial"], None],
) -> TrialQueue:
    """The desk of a study; for one of replicates, of those that wait there."""
    num_trials = plan.config.trials
    enqueued_only = plan.config.sampler == "grid"
    if study.user_attrs.get(SETTINGS, False):
        num_trials, enqueued_only = len(study.get_trials(deepcopy=False)), True
    ended = [
        trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
    ]
    return TrialQueue(
        storage, study, plan, num_trials, deadline, enqueued_only, frozenset(ended), on_stale
    )
