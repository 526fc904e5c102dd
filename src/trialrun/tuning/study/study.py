"""Studies: creation, resumption, enqueued settings and the trial queue."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialrun.config import TrainConfig
from trialrun.errors import InvalidParameterError
from trialrun.tuning.objectives import Objective
from trialrun.tuning.plan import SearchPlan
from trialrun.tuning.storage_url import redact_password
from trialrun.tuning.study import attrs
from trialrun.tuning.study.samplers import make_pruner
from trialrun.tuning.study.storage import StudyStorage, silence_optuna, translate_optuna_errors
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.study.trials import sort_by_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

_NUM_FROM_STUDY = 3  # best settings taken from the --from-study study


def generate_name() -> str:
    """Return a unique name for a new study."""
    return f"search-{secrets.token_hex(4)}"


def open_study(storage: StudyStorage, name: str, plan: SearchPlan) -> "Study":
    """Create or resume the study `name` and enqueue the settings to try first.

    Raises:
        InvalidParameterError: The study searches something else, or `from_study` does not exist.
        TrackingError: The storage fails.
    """
    import optuna

    with translate_optuna_errors(storage.url), silence_optuna(), storage.lock(f"{name}/trials"):
        from_study_params = _load_from_study(storage, plan)
        _check_own_study(storage, name, plan)
        study = optuna.create_study(
            study_name=name,
            storage=storage.rdb,
            directions=list_directions(plan),
            pruner=make_pruner(plan),
            load_if_exists=True,
        )
        _check_signature(study, plan)
        _check_num_models(study, plan)
        for settings in _list_enqueued(plan, from_study_params):
            study.enqueue_trial(settings, skip_if_exists=True)
    return study


def _check_own_study(storage: StudyStorage, name: str, plan: SearchPlan) -> None:
    """Check that an existing study `name` is a search of trialrun, or empty; change nothing.

    An empty study with the plan's directions may have been created by a search that then died.

    Raises:
        InvalidParameterError: It belongs to another program, or holds the replicates of a search.
    """
    import optuna

    try:
        study = optuna.load_study(study_name=name, storage=storage.rdb)
    except KeyError:
        return
    if attrs.SIGNATURE in study.user_attrs:
        return
    is_empty = not study.user_attrs and not study.get_trials(deepcopy=False)
    if is_empty and study.directions == list_directions(plan):
        return
    raise InvalidParameterError(
        f"study {name} in {redact_password(storage.url)} was not created by trialrun search",
        f"Give another --study; --from-study {name} tries the best settings of that one first.",
    )


def load_study(storage: StudyStorage, name: str, plan: SearchPlan) -> "Study":
    """Load the existing study `name` with the plan's pruner, which the storage does not hold."""
    import optuna

    return optuna.load_study(study_name=name, storage=storage.rdb, pruner=make_pruner(plan))


def list_directions(plan: SearchPlan) -> "list[StudyDirection]":
    """Return Optuna's direction of each objective."""
    from optuna.study import StudyDirection

    return [StudyDirection[objective.direction.upper()] for objective in plan.objectives]


def _check_signature(study: "Study", plan: SearchPlan) -> None:
    """Compare the plan's settings with the study's; store them in a new study.

    A study of an older version lacks the settings added since: its trials had their defaults.
    """
    current, stored = plan.signature(), study.user_attrs.get(attrs.SIGNATURE)
    if stored is None:
        study.set_user_attr(attrs.SIGNATURE, current)
        return
    before = TrainConfig().params() | stored
    names = [name for name in {**stored, **current} if current.get(name) != before.get(name)]
    if names:
        texts = ", ".join(f"{name}={before.get(name)}" for name in names)
        raise InvalidParameterError(
            f"study {study.study_name} was created with {texts}",
            "Give the same settings, or another --study.",
        )


def _check_num_models(study: "Study", plan: SearchPlan) -> None:
    """Store of how many of the best settings the models are logged: one per possible finalist.

    A finalist without a logged model could not be registered, so a study with completed trials
    does not accept more finalists.
    """
    from optuna.trial import TrialState

    num_needed = plan.config.finalists if plan.config.replicates else 1
    num_models = study.user_attrs.get(attrs.NUM_MODELS)
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if completed and num_needed > (num_models or 1):
        raise InvalidParameterError(
            f"study {study.study_name} has logged the models of its {num_models or 1} best "
            f"settings only, and replicates of {num_needed} finalists need {num_needed}",
            f"Create another --study with --from-study {study.study_name}: it tries the best "
            "settings first.",
        )
    if num_models is None or num_needed > num_models:
        study.set_user_attr(attrs.NUM_MODELS, num_needed)


def _list_enqueued(
    plan: SearchPlan, from_study_params: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the settings to try first: the defaults, the file's and another study's best.

    A grid has none here: its points are enqueued one by one, and failed points are replaced.
    """
    if plan.config.sampler == "grid":
        return []
    defaults = {name: getattr(TrainConfig(), name) for name in plan.space.dimensions}
    all_params = [defaults, *plan.enqueued_params, *from_study_params]
    valid = [plan.space.select_valid(params) for params in all_params]
    return [params for params in valid if params]


def _load_from_study(storage: StudyStorage, plan: SearchPlan) -> Sequence[Mapping[str, Any]]:
    """Return the best settings of the `from_study` study."""
    import optuna

    name = plan.config.from_study
    if name is None:
        return []
    try:
        from_study = optuna.load_study(study_name=name, storage=storage.rdb)
    except KeyError:
        raise InvalidParameterError(
            f"from_study={name}: study not found in {redact_password(storage.url)}",
            "`optuna studies --storage URL` lists the studies.",
        ) from None
    objectives = [Objective("", direction.name.lower()) for direction in from_study.directions]
    best = sort_by_objective(from_study.get_trials(), objectives)[:_NUM_FROM_STUDY]
    return [trial.params for trial in best]


def open_trial_queue(
    storage: StudyStorage,
    study: "Study",
    plan: SearchPlan,
    *,
    deadline: float | None,
    on_stale: Callable[["FrozenTrial", bool], None],
) -> TrialQueue:
    """Open the trial queue of a study; a study of replicates has enqueued trials only."""
    num_trials = plan.config.trials
    enqueued_only = plan.config.sampler == "grid"
    if study.user_attrs.get(attrs.SETTINGS, False):
        num_trials, enqueued_only = len(study.get_trials(deepcopy=False)), True
    ended = [
        trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()
    ]
    return TrialQueue(
        storage, study, plan, num_trials, deadline, enqueued_only, frozenset(ended), on_stale
    )
