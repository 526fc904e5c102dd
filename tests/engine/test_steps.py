"""The warm-up of the learning rate: its two units, and lengths that no training has room for."""

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
from trialrun.tuning.study.trial_queue import ClaimedTrial, Finished

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
    ],
)
def test_warmup_is_counted_in_steps(values: dict[str, Any], expected: int) -> None:
    """Epochs become steps of 10 an epoch, a fraction at least one step."""
    assert count_warm_up_steps(TrainConfig(epochs=3, batch_size=8, **values), 80) == expected


def test_ranks_share_the_steps_of_an_epoch() -> None:
    """Two ranks take half as many steps, and warm up over half as many."""
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
def test_impossible_warmup_is_refused_while_planning(values: dict[str, Any], colors: Path) -> None:
    """As long as the run or longer, or given in both units: an error before torch is needed."""
    with pytest.raises(InvalidParameterError, match="warmup_"):
        plan_training({"train_data": str(colors), "epochs": 1, "batch_size": 5, **values})


def test_impossible_warmup_is_told_before_torch_is_loaded(colors: Path) -> None:
    """Exit 2 in two lines, with neither torch nor MLflow imported."""
    words = ["train", "--train-data", str(colors), "--warmup-steps", "100000"]
    code = (
        "import sys; from trialrun.cli import run_cli\n"
        f"print(run_cli({words!r}), {{'torch', 'mlflow'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 set()"
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["Error", "Hint"]
    assert "warmup_steps=100000" in done.stderr


def test_epochs_of_warmup_train_as_their_steps_do(store: str, colors: Path) -> None:
    """One epoch and its four steps give the same weights; both runs record 4 steps."""
    warm_ups: tuple[dict[str, Any], ...] = ({"warmup_epochs": 1}, {"warmup_steps": 4}, {})
    results = [
        trialrun.train(train_data=str(colors), epochs=2, learning_rate=0.02, **SMALL, **warm_up)
        for warm_up in warm_ups
    ]
    weights = [result.weights_sha256 for result in results]
    assert weights[0] == weights[1] != weights[2]
    runs = [mlflow.MlflowClient(store).get_run(result.run_id) for result in results]
    assert [run.data.params["resolved_warmup_steps"] for run in runs] == ["4", "4", "0"]


def test_warmup_is_checked_again_once_bad_images_are_known(store: str, tmp_path: Path) -> None:
    """Names promise six steps; an unreadable image leaves five, all of which would warm up."""
    train = write_classes(tmp_path / "train", {"blue": 9, "red": 8})
    valid = write_classes(tmp_path / "valid", {"blue": 2, "red": 2}, seed=7)
    (train / "blue" / "000.png").write_bytes(b"no picture")
    data: dict[str, Any] = {"train_data": str(train), "valid_data": str(valid)}
    with pytest.raises(InvalidParameterError, match=r"warmup_steps=5 .* 5 steps"):
        trialrun.train(**data, **(SMALL | {"batch_size": 3}), epochs=1, warmup_steps=5)


def test_search_without_any_possible_warmup_is_refused(colors: Path) -> None:
    """Every combination is impossible where the most epochs are no more than the least warm-up."""
    values = {"train_data": str(colors), "batch_size": 8}
    with pytest.raises(InvalidParameterError, match="warmup_epochs=3"):
        plan_search({**values, "epochs": "1:3", "warmup_epochs": "5,3"})
    with pytest.raises(InvalidParameterError, match="both given"):
        plan_search({**values, "warmup_epochs": "0.5:1", "warmup_steps": "1:3"})
    with pytest.raises(InvalidParameterError, match="warmup_steps=1000"):
        plan_search({**values, "warmup_steps": 1000, "learning_rate": "1e-3:1e-1"})


def test_search_trains_the_combinations_that_are_possible(store: str, colors: Path) -> None:
    """A grid of epochs and warm-up trains the one pair that goes; the others keep their reason."""
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
    """As many possible trials as asked are handed out, whatever else was drawn."""
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


def test_search_ends_where_the_possible_is_never_drawn(store: str, colors: Path) -> None:
    """Hundreds of impossible draws in a row are told with the last one's reason."""
    queue = make_queue(
        store, colors, sampler="random", trials=2, epochs=1, warmup_steps="0:100000000"
    )
    queue.complete(claim_next(queue), [1.0])  # the defaults, without a warm-up
    with pytest.raises(InvalidParameterError, match="in a row have settings"):
        queue.claim("tester")


@pytest.mark.parametrize("other", ["0", 0.0])
def test_warmup_is_searched_beside_the_other_unit_at_zero(other: object, colors: Path) -> None:
    """MLproject hands over every setting, also the unit that is not used."""
    values = {"train_data": str(colors), "batch_size": 8, "warmup_steps": "0:3"}
    assert "warmup_steps" in plan_search({**values, "warmup_epochs": other}).space.dimensions
