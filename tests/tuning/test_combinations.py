"""Settings that do not go together: errors before any trial, and combinations that work."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_model
from tests.tuning.conftest import claim_next, make_queue, settings
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.tuning.plan import find_impossible_reason, plan_search

TWO_METRICS = "valid_loss,train_loss"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "cmaes", "metric": TWO_METRICS}, "sampler=cmaes optimizes one metric"),
        ({"sampler": "cmaes"}, "needs 2 ranges or more, and the search space has 1"),
        (
            {"sampler": "cmaes", "learning_rate": "0.1,0.2", "optimizer": "sgd,adamw"},
            "the search space has 0",
        ),
        ({"pruner": "hyperband", "metric": TWO_METRICS}, "pruner=hyperband cannot compare"),
        (
            {"augment": "none,flip", "transforms": "steps.json"},
            "augment is searched and transforms",
        ),
        ({"model": "shufflenet_v2_x0_5,resnet17"}, "resnet17"),
        ({"weights": "none,missing.pt"}, "missing.pt does not exist"),
    ],
    ids=str,
)
def test_impossible_combinations_are_refused(
    values: dict[str, Any], message: str, colors: Path
) -> None:
    """Optuna or the trials would fail on them after the run was opened, or ignore a setting."""
    with pytest.raises((InvalidParameterError, InvalidModelDirectoryError), match=message):
        plan_search(settings(colors, **values))


def test_first_image_size_is_searched_with_the_full_one(colors: Path) -> None:
    """A trial that combines 64 pixels at first with 48 at the end is not trained; others are."""
    plan = plan_search(settings(colors, progressive_resize="off,64", image_size="48,96"))
    assert plan.space.texts()["progressive_resize"] == "off,64"
    reasons = {
        (first, full): find_impossible_reason(
            plan.base, {"progressive_resize": first, "image_size": full}
        )
        for first in ("off", 64)
        for full in (48, 96)
    }
    assert [pair for pair, reason in reasons.items() if reason] == [(64, 48)]
    assert "is not below the image size (48 pixels)" in reasons[64, 48]


def test_folders_of_all_models_are_known(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search over models in MLflow downloads each of them once, not only the first."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    for name in ("first", "second"):
        write_model(tmp_path / name, "shufflenet_v2_x0_5", ("blue", "green", "red"))
        client.log_artifacts(run_id, str(tmp_path / name), name)
    uris = [f"runs:/{run_id}/{name}" for name in ("first", "second")]
    plan = plan_search(settings(colors, model=",".join(uris)))
    assert list(plan.base.local_paths) == uris


SPACES: tuple[dict[str, Any], ...] = (
    {"learning_rate": "1e-3:1e-1"},
    {"learning_rate": 0.1, "optimizer": "sgd,adamw"},
    {"learning_rate": "1e-3:1e-1", "weight_decay": "0:0.1", "optimizer": "sgd,adamw"},
)


@pytest.mark.parametrize(
    ("sampler", "metric", "space"),
    [
        *(
            (name, metric, space)
            for name in ("tpe", "gp", "random")
            for metric in ("valid_loss", TWO_METRICS)
            for space in SPACES
        ),
        ("cmaes", "valid_loss", SPACES[2]),
    ],
    ids=str,
)
def test_samplers_propose_trials_after_their_random_start(
    sampler: str, metric: str, space: dict[str, Any], store: str, colors: Path
) -> None:
    """Optuna accepts each combination that planning accepts."""
    values = {"sampler": sampler, "metric": metric, "trials": 99, "pruner": "none"} | space
    queue = make_queue(store, colors, **values)
    for number in range(13):  # the samplers with a model start after ten
        claim = claim_next(queue)
        assert queue.complete(claim, [float(number)] * len(metric.split(",")))
