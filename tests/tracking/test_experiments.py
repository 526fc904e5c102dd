"""Which experiment a run is in, and which run it is nested below: MLflow's own rules."""

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
    """MLflow keeps what `set_experiment` chose for the whole process; here until a test ends."""
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    yield
    assert mlflow.active_run() is None


def trained(colors: Path, **settings: Any) -> Run:
    """The run of a training."""
    result = trialrun.train(train_data=str(colors), **SETTINGS, **settings)
    return mlflow.get_run(result.run_id)


def name_of(run: Run) -> str:
    """The name of a run's experiment."""
    return str(mlflow.get_experiment(run.info.experiment_id).name)


def test_set_experiment_comes_before_the_environment(colors: Path) -> None:
    """MLFLOW_EXPERIMENT_NAME counts where the program has chosen none; ours before both."""
    run = trained(colors)
    assert (name_of(run), PARENT in run.data.tags) == ("tests", False)
    mlflow.set_experiment("explicit")
    run = trained(colors)
    assert (name_of(run), PARENT in run.data.tags) == ("explicit", False)
    assert name_of(trained(colors, experiment="ours")) == "ours"


def test_environment_names_an_experiment_by_id_or_default(
    colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLFLOW_EXPERIMENT_ID counts without a name; with neither it is Default."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.chdir(colors)  # where Default's artifacts go
    assert name_of(trained(colors)) == "Default"
    other = mlflow.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    assert name_of(trained(colors)) == "by id"


def test_experiment_of_the_environment_is_made(
    colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow does, where MLFLOW_EXPERIMENT_NAME names one that is not there."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "new")
    monkeypatch.chdir(colors)
    assert name_of(trained(colors)) == "new"


def test_deleted_experiment_is_refused(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, with what to do, whichever way it was chosen."""
    mlflow.delete_experiment(mlflow.create_experiment("gone"))
    with pytest.raises(TrackingError, match="experiment gone was deleted"):
        trained(colors, experiment="gone")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    with pytest.raises(TrackingError, match="experiment gone was deleted"):
        trained(colors)


def test_run_is_nested_below_the_active_run(colors: Path) -> None:
    """In the active run's experiment, though another is set; the active run stays open."""
    other = mlflow.create_experiment("other")
    mlflow.set_experiment("explicit")
    with mlflow.start_run(experiment_id=other) as parent:
        run = trained(colors)
        assert mlflow.get_run(parent.info.run_id).info.status == "RUNNING"
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == parent.info.run_id
    assert run.info.experiment_id == other
    assert run.data.tags[PARENT] == parent.info.run_id
    assert run.info.status == "FINISHED"


def test_named_experiment_keeps_the_active_run_as_parent(colors: Path) -> None:
    """As `mlflow.start_run(experiment_id=..., nested=True)`, which allows another experiment."""
    other = mlflow.create_experiment("other")
    with mlflow.start_run(experiment_id=other) as parent:
        run = trained(colors, experiment="ours")
    assert name_of(run) == "ours"
    assert run.data.tags[PARENT] == parent.info.run_id


def test_every_kind_of_run_is_nested(colors: Path, tmp_path: Path) -> None:
    """The runs of a search, an evaluation, a promotion and a reproduction, below the active one."""
    other = mlflow.create_experiment("other", str(tmp_path / "artifacts"))
    with mlflow.start_run(experiment_id=other) as parent:
        found = trialrun.search(
            train_data=str(colors),
            trials=1,
            register_as="colors",
            storage=f"sqlite:///{tmp_path}/study.db",
            **SETTINGS,
        )
        runs = {
            "search": found.run_id,
            "evaluate": trialrun.evaluate("models:/colors/1", str(colors), draws=100).run_id,
            "promote": trialrun.promote(
                "colors", 1, str(colors), min="accuracy=0", allow_overlap=True
            ).run_id,
            "reproduce": trialrun.reproduce(found.best_run_id).run_id,
        }
    for kind, run_id in runs.items():
        run = mlflow.get_run(run_id)
        assert run.info.experiment_id == other, kind
        assert run.data.tags[PARENT] == parent.info.run_id, kind
    assert mlflow.get_run(found.best_run_id).data.tags[PARENT] == found.run_id
