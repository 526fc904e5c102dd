"""Tests of the learning rate warm-up: its three units, and warm-ups that are too long."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from tests.tuning.conftest import claim_next, make_queue, nested_runs, settings
from trialrun.config import TrainConfig
from trialrun.engine.steps import count_warm_up_steps
from trialrun.errors import InvalidParameterError
from trialrun.runs.training.plan import plan_training
from trialrun.tuning.plan import plan_search
from trialrun.tuning.study.attrs import IMPOSSIBLE
from trialrun.tuning.study.claims import ClaimedTrial, Finished

# 36 images, of which 28 or 29 train: 4 steps of 8 images in each epoch.
SMALL: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "precision": "fp32",
    "device": "cpu",
    "batch_size": 8,
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 0),
        ({"warmup_steps": 7}, 7),
        ({"warmup_epochs": 1}, 10),
        ({"warmup_epochs": 0.25}, 2),
        ({"warmup_epochs": 0.001}, 1),
        ({"warmup_epochs": 1.99}, 20),
        ({"warmup_fraction": 0.5}, 15),
        ({"warmup_fraction": 1e-9}, 1),
        ({"warmup_fraction": 0.999}, 29),
        ({"schedule": "onecycle"}, 9),
        ({"schedule": "onecycle", "warmup_steps": 2}, 2),
        ({"schedule": "onecycle", "warmup_fraction": 0.1}, 3),
    ],
)
def test_warmup_is_counted_in_steps(values: dict[str, Any], expected: int) -> None:
    """An epoch has 10 steps, the run 30; a fraction is at least one step."""
    assert count_warm_up_steps(TrainConfig(epochs=3, batch_size=8, **values), 80) == expected


def test_ranks_share_the_steps_of_an_epoch() -> None:
    """Two ranks need half the steps, and half the warm-up steps."""
    config = TrainConfig(epochs=3, batch_size=8, warmup_epochs=1.0)
    assert count_warm_up_steps(config, 80, world_size=2) == 5


@pytest.mark.parametrize(
    "values",
    [
        {"warmup_steps": 6},
        {"warmup_steps": 100_000},
        {"warmup_epochs": 2},
        {"warmup_epochs": 0.99},
        {"warmup_epochs": 1e308},
        {"warmup_steps": 1, "warmup_epochs": 0.1},
    ],
)
def test_impossible_warmup_is_an_error_in_planning(values: dict[str, Any], colors: Path) -> None:
    """A warm-up as long as the run, or in both units, is an error."""
    with pytest.raises(InvalidParameterError, match="warmup_"):
        plan_training({"train_data": str(colors), "epochs": 1, "batch_size": 5, **values})


def test_impossible_warmup_is_an_error_before_torch_is_loaded(colors: Path) -> None:
    """The command exits with 2 and prints two lines, without importing torch or MLflow."""
    words = ["train", "--train-data", str(colors), "--warmup-steps", "100000"]
    code = (
        "import sys; from trialrun.cli import run_cli\n"
        f"print(run_cli({words!r}), {{'torch', 'mlflow'}} & set(sys.modules))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "2 set()"
    assert [line.partition(":")[0] for line in completed.stderr.splitlines()] == ["Error", "Hint"]
    assert "warmup_steps=100000" in completed.stderr


@pytest.mark.slow
def test_warmup_in_epochs_equals_warmup_in_steps(store: str, colors: Path) -> None:
    """One epoch and its four steps give the same weights; both runs log 4 steps."""
    warm_ups: tuple[dict[str, Any], ...] = ({"warmup_epochs": 1}, {"warmup_steps": 4}, {})
    results = [
        trialrun.train(train_data=str(colors), epochs=2, learning_rate=0.02, **SMALL, **warm_up)
        for warm_up in warm_ups
    ]
    weights = [result.weights_sha256 for result in results]
    assert weights[0] == weights[1] != weights[2]
    runs = [mlflow.MlflowClient(store).get_run(result.run_id) for result in results]
    assert [run.data.params["resolved_warmup_steps"] for run in runs] == ["4", "4", "0"]


def test_warmup_is_checked_again_without_bad_images(store: str, tmp_path: Path) -> None:
    """The files give six steps; without an unreadable image five remain, all of them warm-up."""
    train = write_classes(tmp_path / "train", {"blue": 9, "red": 8})
    valid = write_classes(tmp_path / "valid", {"blue": 2, "red": 2}, seed=7)
    (train / "blue" / "000.png").write_bytes(b"not an image")
    data: dict[str, Any] = {"train_data": str(train), "valid_data": str(valid)}
    with pytest.raises(InvalidParameterError, match=r"warmup_steps=5 .* 5 steps"):
        trialrun.train(**data, **(SMALL | {"batch_size": 3}), epochs=1, warmup_steps=5)


def test_search_without_a_possible_warmup_is_an_error(colors: Path) -> None:
    """No combination is possible if the shortest warm-up is as long as the longest run."""
    values = {"train_data": str(colors), "batch_size": 8}
    with pytest.raises(InvalidParameterError, match="warmup_epochs=3"):
        plan_search({**values, "epochs": "1:3", "warmup_epochs": "5,3"})
    with pytest.raises(InvalidParameterError, match="several lengths"):
        plan_search({**values, "warmup_epochs": "0.5:1", "warmup_steps": "1:3"})
    with pytest.raises(InvalidParameterError, match="warmup_steps=1000"):
        plan_search({**values, "warmup_steps": 1000, "learning_rate": "1e-3:1e-1"})


@pytest.mark.slow
def test_search_trains_the_possible_combinations(store: str, colors: Path) -> None:
    """A grid search trains the one possible combination; the others store the reason."""
    result = trialrun.search(
        **settings(
            colors, sampler="grid", trials=4, learning_rate=0.01, epochs="1,2", warmup_epochs="1,3"
        )
    )
    assert result.best_params == {"epochs": 2, "warmup_epochs": 1.0}
    assert (result.num_trials["complete"], result.num_trials["impossible"]) == (1, 3)
    assert len(nested_runs(store, result.run_id)) == 1
    table = mlflow.artifacts.load_text(f"runs:/{result.run_id}/trials.csv")
    assert table.count("is not shorter than the run") == 3


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_impossible_draws_are_neither_trained_nor_counted(
    sampler: str, store: str, colors: Path
) -> None:
    """The queue hands out the requested number of possible trials."""
    queue = make_queue(
        store, colors, sampler=sampler, trials=12, epochs="1:4", warmup_epochs="0:6", batch_size=8
    )
    drawn = []
    while isinstance(claim := queue.claim("tester"), ClaimedTrial):
        drawn.append((claim.settings["epochs"], claim.settings["warmup_epochs"]))
        queue.complete(claim, [1.0])
    assert isinstance(claim, Finished)
    assert len(drawn) == 12
    assert all(warmup < epochs for epochs, warmup in drawn)
    assert any(IMPOSSIBLE in trial.user_attrs for trial in queue.study.get_trials())


@pytest.mark.slow
def test_search_ends_if_only_impossible_settings_are_drawn(store: str, colors: Path) -> None:
    """Hundreds of impossible draws in a row are an error with the last one's reason."""
    queue = make_queue(
        store, colors, sampler="random", trials=2, epochs=1, warmup_steps="0:100000000"
    )
    queue.complete(claim_next(queue), [1.0])  # the defaults, without a warm-up
    with pytest.raises(InvalidParameterError, match="in a row have settings"):
        queue.claim("tester")


@pytest.mark.parametrize("other", ["0", 0.0])
def test_warmup_can_be_searched_with_the_other_unit_at_zero(other: object, colors: Path) -> None:
    """MLproject passes every setting, including the unit that is not used."""
    values = {"train_data": str(colors), "batch_size": 8, "warmup_steps": "0:3"}
    assert "warmup_steps" in plan_search({**values, "warmup_epochs": other}).space.dimensions
