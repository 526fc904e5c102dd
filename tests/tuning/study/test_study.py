"""Opening a study again."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.tuning.conftest import claim_next, make_queue, settings
from trialrun.errors import InvalidParameterError
from trialrun.tuning.plan import plan_search
from trialrun.tuning.study import attrs
from trialrun.tuning.study.storage import open_storage
from trialrun.tuning.study.study import open_study


def test_study_of_an_older_version_has_the_default_of_a_new_setting(
    store: str, colors: Path
) -> None:
    """A setting that the study does not know must have its default, as it had in its trials."""
    storage = open_storage(store.replace("mlflow.db", "optuna.db"), heartbeat_seconds=1)
    study = open_study(storage, "older", plan_search(settings(colors)))
    signature = dict(study.user_attrs[attrs.SIGNATURE])
    del signature["label_smoothing"]
    study.set_user_attr(attrs.SIGNATURE, signature)
    open_study(storage, "older", plan_search(settings(colors)))
    with pytest.raises(InvalidParameterError, match=r"created with label_smoothing=0\.0"):
        open_study(storage, "older", plan_search(settings(colors, label_smoothing=0.1)))


def make_foreign_study(store: str, **options: Any) -> optuna.Study:
    """Create a study as another program would, in the storage of `make_queue`."""
    url = store.replace("mlflow.db", "optuna.db")
    return optuna.create_study(study_name="theirs", storage=url, **options)


def test_study_of_another_program_is_refused_unchanged(store: str, colors: Path) -> None:
    """Its trials have other settings and no results; nothing is written into it."""
    study = make_foreign_study(store)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(InvalidParameterError, match=r"theirs in .* was not created by trialrun"):
        make_queue(store, colors, study="theirs")
    assert study.user_attrs == {}
    assert len(study.get_trials()) == 1


def test_empty_study_with_other_directions_is_refused(store: str, colors: Path) -> None:
    """Optuna cannot change the directions of a study."""
    make_foreign_study(store, directions=["minimize", "maximize"])
    with pytest.raises(InvalidParameterError, match="was not created by trialrun"):
        make_queue(store, colors, study="theirs")


def test_empty_study_with_equal_directions_is_used(store: str, colors: Path) -> None:
    """A search that was killed while it created the study leaves such a study."""
    make_foreign_study(store)
    assert claim_next(make_queue(store, colors, study="theirs")).number == 0


@pytest.mark.slow
def test_brackets_of_hyperband_depend_on_the_seed_only(store: str, colors: Path) -> None:
    """Two studies with other names prune the same trials; with another seed, others."""

    def list_brackets(name: str, seed: int) -> list[int]:
        values = {"pruner": "hyperband", "epochs": 30, "trials": 40, "random_seed": seed}
        queue = make_queue(store, colors, study=name, sampler="random", **values)
        pruner: Any = queue.study.pruner
        claims = [claim_next(queue) for _ in range(12)]
        for claim in claims:
            queue.report(claim, 1.0, 1)  # Optuna makes the brackets at the first report
        trials = queue.study.get_trials()
        assert pruner._n_brackets > 1
        brackets = []
        for trial in trials:
            bracket_id = pruner._get_bracket_id(queue.study, trial)
            bracket_study = pruner._create_bracket_study(queue.study, bracket_id)
            assert trial.number in {other.number for other in bracket_study.get_trials()}
            brackets.append(bracket_id)
        return brackets

    first = list_brackets("one", seed=1)
    assert list_brackets("two", seed=1) == first
    assert list_brackets("three", seed=2) != first
    assert len(set(first)) > 1
