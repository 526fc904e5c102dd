"""Tests of the experiment and the parent of a run, which follow MLflow's rules."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.tracking import fluent

import trialrun
from trialrun.errors import TrackingError

SETTINGS: dict[str, Any] = {"model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 8}
PARENT = "mlflow.parentRunId"


@pytest.fixture(autouse=True)
def no_active_experiment(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset MLflow's active experiment after each test; it is global to the process."""
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    yield
    assert mlflow.active_run() is None


def train(colors: Path, **settings: Any) -> Run:
    """Train and return the run."""
    result = trialrun.train(train_data=str(colors), **SETTINGS, **settings)
    return mlflow.get_run(result.run_id)


def experiment_name(run: Run) -> str:
    """Return the name of the run's experiment."""
    return str(mlflow.get_experiment(run.info.experiment_id).name)


@pytest.mark.slow
def test_set_experiment_comes_before_the_environment(colors: Path) -> None:
    """`experiment` overrides `set_experiment`, which overrides MLFLOW_EXPERIMENT_NAME."""
    run = train(colors)
    assert (experiment_name(run), PARENT in run.data.tags) == ("tests", False)
    mlflow.set_experiment("explicit")
    run = train(colors)
    assert (experiment_name(run), PARENT in run.data.tags) == ("explicit", False)
    assert experiment_name(train(colors, experiment="ours")) == "ours"


def test_environment_names_an_experiment_by_id_or_default(
    colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID applies, else Default."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.chdir(colors)  # the artifacts of Default go there
    assert experiment_name(train(colors)) == "Default"
    other = mlflow.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert experiment_name(train(colors)) == "by id"


def test_experiment_of_the_environment_is_created(
    colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment named by MLFLOW_EXPERIMENT_NAME is created if it does not exist."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    monkeypatch.chdir(colors)
    assert experiment_name(train(colors)) == "new"


def test_deleted_experiment_is_refused(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted experiment is an error, however it was chosen."""
    mlflow.delete_experiment(mlflow.create_experiment("gone"))
    with pytest.raises(TrackingError, match="experiment gone was deleted"):
        train(colors, experiment="gone")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    with pytest.raises(TrackingError, match="experiment gone was deleted"):
        train(colors)


def test_run_is_nested_below_the_active_run(colors: Path) -> None:
    """The run is in the experiment of the active run, which stays open."""
    other = mlflow.create_experiment("other")
    mlflow.set_experiment("explicit")
    with mlflow.start_run(experiment_id=other) as parent:
        run = train(colors)
        assert mlflow.get_run(parent.info.run_id).info.status == "RUNNING"
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == parent.info.run_id
    assert run.info.experiment_id == other
    assert run.data.tags[PARENT] == parent.info.run_id
    assert run.info.status == "FINISHED"


def test_named_experiment_keeps_the_active_run_as_parent(colors: Path) -> None:
    """The run may be in another experiment, as with `mlflow.start_run(nested=True)`."""
    other = mlflow.create_experiment("other")
    with mlflow.start_run(experiment_id=other) as parent:
        run = train(colors, experiment="ours")
    assert experiment_name(run) == "ours"
    assert run.data.tags[PARENT] == parent.info.run_id


@pytest.mark.slow
def test_every_kind_of_run_is_nested(colors: Path, tmp_path: Path) -> None:
    """The runs of search, evaluate, promote and reproduce are nested below the active run."""
    other = mlflow.create_experiment("other", str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=other) as parent:
        search = trialrun.search(
            train_data=str(colors),
            trials=1,
            register_as="colors",
            storage=f"sqlite:///{tmp_path}/study.db",
            **SETTINGS,
        )
        runs = {
            "search": search.run_id,
            "evaluate": trialrun.evaluate("models:/colors/1", str(colors)).run_id,
            "promote": trialrun.promote(
                "colors", 1, str(colors), min="accuracy=0", allow_overlap=True
            ).run_id,
            "reproduce": trialrun.reproduce(search.best_run_id).run_id,
        }
    for kind, run_id in runs.items():
        run = mlflow.get_run(run_id)
        assert run.info.experiment_id == other, kind
        assert run.data.tags[PARENT] == parent.info.run_id, kind
    assert mlflow.get_run(search.best_run_id).data.tags[PARENT] == search.run_id
