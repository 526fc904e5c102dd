"""Searches and trainings of the last layer alone, which share the features of the backbone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import trialrun
from tests.conftest import make_network, write_classes
from tests.tuning.conftest import SMALL, nested_runs, settings
from trialrun.errors import InvalidModelDirectoryError
from trialrun.models.weights import serialization
from trialrun.runs.training.outcome import parity

RATES = "0.01,0.1,0.3"
NUM_IMAGES = 36  # of `colors`


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache folder."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights for another number of classes."""
    path = tmp_path / "weights.pth"
    torch.save(make_network(num_classes=7).state_dict(), path)
    return path


def freeze(colors: Path, weights: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of a search of the last layer."""
    fixed = {"weights": str(weights), "freeze": "backbone", "head_start": "random"}
    searched = {"sampler": "grid", "learning_rate": RATES, "trials": 3, "pruner": "none"}
    return settings(colors, **{**fixed, **searched, "epochs": 3, **more})


@contextmanager
def count_images(num_images: int) -> Iterator[list[int]]:
    """Collect the calls of whole networks with this number of images."""
    calls: list[int] = []

    def count(module: nn.Module, inputs: Any, _output: Any) -> None:
        is_network = type(module).__name__ == "ShuffleNetV2"
        if is_network and isinstance(inputs[0], Tensor) and len(inputs[0]) == num_images:
            calls.append(num_images)

    handle = register_module_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def read_losses(store: str, run_id: str) -> list[float]:
    """Return the validation loss of each epoch."""
    history = mlflow.MlflowClient(store).get_metric_history(run_id, "valid_loss")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


@pytest.mark.slow
def test_trials_compute_features_once_and_train_as_alone(
    store: str, colors: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three trials run the training images once; each has the losses of a training by itself."""
    valid = write_classes(tmp_path / "valid", {"blue": 3, "green": 3, "red": 3}, seed=9)
    search = freeze(colors, weights, valid_data=str(valid))
    with count_images(NUM_IMAGES) as calls:
        result = trialrun.search(**search)
    assert len(calls) == 1
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "other"))
    of_search = ("sampler", "trials", "pruner", "workers")
    fixed = {name: value for name, value in search.items() if name not in of_search}
    for run in nested_runs(store, result.run_id):
        own = {name: run.data.params[name] for name in ("learning_rate", "random_seed")}
        alone = trialrun.train(**{**fixed, **own})
        losses = read_losses(store, run.info.run_id)
        assert losses == pytest.approx(read_losses(store, alone.run_id), abs=1e-4)
        assert run.data.tags["weights_sha256"] == alone.weights_sha256


@pytest.mark.slow
def test_a_hopeless_trial_on_features_is_pruned(
    store: str, colors: Path, weights: Path, tmp_path: Path
) -> None:
    """After five trials that learn, one that does not ends after an epoch."""
    rates = (0.01, 0.011, 0.012, 0.013, 0.014, 1e-9)
    file = tmp_path / "enqueued.json"
    file.write_text(json.dumps([{"learning_rate": rate} for rate in rates]))
    planned = {"learning_rate": "1e-9:0.3", "sampler": "tpe", "trials": 6, "pruner": "median"}
    result = trialrun.search(**freeze(colors, weights, **planned, enqueue=str(file)))
    last = nested_runs(store, result.run_id)[-1]
    assert (result.num_trials["complete"], result.num_trials["pruned"]) == (5, 1)
    assert (last.data.tags["stop_reason"], last.data.tags["stopped_epoch"]) == ("pruned", "1")


@pytest.mark.slow
def test_worker_processes_share_features(store: str, colors: Path, weights: Path) -> None:
    """Two workers leave one file of features."""
    result = trialrun.search(**freeze(colors, weights, workers=2))
    assert result.num_trials["complete"] == 3
    folder = colors.parent / "cache" / "features"
    assert len([path for path in folder.iterdir() if not path.suffix]) == 1


@pytest.mark.slow
def test_changed_weights_and_images_have_features_of_their_own(
    store: str, colors: Path, weights: Path
) -> None:
    """A repeated training uses those that are stored; one from other files computes its own."""
    valid = write_classes(colors.parent / "valid", {"blue": 3, "green": 3, "red": 3}, seed=9)

    def count_calls() -> int:
        named: dict[str, Any] = {"train_data": str(colors), "valid_data": str(valid)}
        with count_images(NUM_IMAGES) as calls:
            trialrun.train(**named, **SMALL, weights=str(weights), epochs=1, freeze="backbone")
        return len(calls)

    counts = [count_calls(), count_calls()]
    torch.save(make_network(num_classes=7, seed=8).state_dict(), weights)
    counts += [count_calls(), count_calls()]
    write_classes(colors, {"blue": 12, "green": 12, "red": 12}, seed=5)
    counts += [count_calls(), count_calls()]
    assert counts == [1, 0, 1, 0, 1, 0]


def test_frozen_epochs_read_the_features_of_a_run_before(
    store: str, colors: Path, weights: Path, tmp_path: Path
) -> None:
    """Features are kept of trainings that train all layers afterwards, too."""
    valid = write_classes(tmp_path / "valid", {"blue": 3, "green": 3, "red": 3}, seed=9)
    named: dict[str, Any] = {"train_data": str(colors), "valid_data": str(valid), **SMALL}
    counts = []
    for rate in (0.001, 0.01):
        phases: dict[str, Any] = {"epochs": 2, "freeze_epochs": 1, "head_start": "random"}
        with count_images(NUM_IMAGES) as calls:
            trialrun.train(**named, **phases, weights=str(weights), learning_rate=rate)
        counts.append(len(calls))
    assert counts == [1, 0]


def search_twice(colors: Path, weights: Path) -> Any:
    """Search with two trials, both of which log their model: the second one is better."""
    file = colors.parent / "enqueued.json"
    file.write_text(json.dumps([{"learning_rate": rate} for rate in (1e-6, 0.1)]))
    planned = {"learning_rate": "1e-6:0.1", "sampler": "tpe", "trials": 2}
    return trialrun.search(**freeze(colors, weights, **planned, enqueue=str(file)))


def test_a_model_with_the_frozen_layers_of_another_is_compared_by_its_file(
    store: str, colors: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first model computes images."""
    compared = count_comparisons(monkeypatch)
    result = search_twice(colors, weights)
    tags = [run.data.tags for run in nested_runs(store, result.run_id)]
    assert len(compared) == 1
    assert [tag["parity_max_difference"] for tag in tags][1:] == ["0"]


def count_comparisons(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the weights of the models that are compared on images."""
    compare, compared = parity._compare_on_files, list[Any]()

    def collect(network: nn.Module, trained: Any, *rest: Any) -> Any:
        compared.append(trained)
        return compare(network, trained, *rest)

    monkeypatch.setattr(parity, "_compare_on_files", collect)
    return compared


def test_a_model_that_is_stored_wrong_is_found_on_images(
    store: str, colors: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the second model has another last layer than the trained network."""
    compared, serialize = count_comparisons(monkeypatch), serialization.serialize_state

    def damage(state: dict[str, Tensor]) -> bytes:
        wrong = {"fc.bias": torch.arange(3.0)} if compared else {}
        return serialize({**state, **wrong})

    monkeypatch.setattr(serialization, "serialize_state", damage)
    with pytest.raises(InvalidModelDirectoryError, match="not equal to the trained network"):
        search_twice(colors, weights)
    assert len(compared) == 2
