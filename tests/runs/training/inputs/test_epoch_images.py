"""Pictures of each epoch for MLflow's image grid."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import trialrun
from tests.conftest import SMALL
from tests.runs.recovery.interruptions import SETTINGS, interrupt_training
from trialrun.config import TrainConfig
from trialrun.engine.inputs.augment import augment_batch
from trialrun.engine.inputs.batches import ImageDataset, training_batches
from trialrun.files import hash_file
from trialrun.runs.training.inputs.epoch_images import (
    CONFUSION,
    MISTAKES,
    SAMPLES,
    augment_samples,
    choose_samples,
    has_pictures,
    is_augmented,
)

NAME = re.compile(r"(\w+)\+step\+(\d+)\+timestamp\+(\d+)\+.*?(\+compressed\.webp|\.png)")


def read_pictures(store: str, run_id: str) -> dict[tuple[str, int, str], str]:
    """Return the checksum of each picture by key, step and kind of file; none is there twice."""
    client = mlflow.MlflowClient(store)
    pictures: dict[tuple[str, int, str], str] = {}
    for item in client.list_artifacts(run_id, "images"):
        match = NAME.fullmatch(Path(item.path).name)
        assert match is not None
        key = (match[1], int(match[2]), match[4])
        assert key not in pictures
        pictures[key] = hash_file(Path(client.download_artifacts(run_id, item.path)))
    return pictures


@pytest.mark.parametrize(
    ("num_epochs", "expected"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (20, list(range(1, 21))),
        (45, [1, *range(3, 46, 3)]),
        (101, [1, *range(6, 97, 6), 101]),
    ],
)
def test_long_runs_have_pictures_of_some_epochs(num_epochs: int, expected: list[int]) -> None:
    """The first and the last epoch have some, and about 20 of those between."""
    epochs = [epoch for epoch in range(1, num_epochs + 1) if has_pictures(epoch, num_epochs)]
    assert epochs == expected


@pytest.mark.parametrize("num_epochs", [21, 39, 100, 1000, 12345])
def test_number_of_pictures_is_limited(num_epochs: int) -> None:
    """The store gets no more of them in a long training."""
    number = sum(has_pictures(epoch, num_epochs) for epoch in range(1, num_epochs + 1))
    assert 10 <= number <= 22


class Noise:
    """An `ImageSource` of noise."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return images that depend on their rows."""
        generator = [torch.Generator().manual_seed(int(row)) for row in rows]
        images = [torch.randint(0, 256, (3, 24, 24), generator=one) for one in generator]
        return torch.stack(images).to(torch.uint8)


@pytest.mark.parametrize("augment", ["flip", "standard", "strong"])
def test_samples_are_what_the_network_gets_in_the_epoch(augment: str) -> None:
    """They equal the images in the epoch's batches, and torch's generator is as before."""
    labels = np.arange(50) % 3
    dataset = ImageDataset(Noise(), np.arange(50), labels)
    config = TrainConfig(augment=augment, random_seed=5, batch_size=7)
    data: Any = SimpleNamespace(
        train=SimpleNamespace(dataset=dataset),
        train_transforms=(),
        preprocessing=SimpleNamespace(image_size=20),
    )
    expected: dict[int, Tensor] = {}
    for batch in training_batches(dataset, epoch=2, batch_size=7, random_seed=5):
        images = augment_batch(
            batch.pixels, batch.positions, augment=augment, epoch=2, random_seed=5, size=20
        )
        expected |= dict(zip(batch.positions.tolist(), images, strict=True))
    state = torch.get_rng_state()
    positions = choose_samples(50)
    samples = augment_samples(config, data, positions, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(positions) == 16
    for position, image in zip(positions.tolist(), samples, strict=True):
        # A batch of another size may be interpolated in another order of additions.
        assert (image.int() - expected[position].int()).abs().max() <= 1


def test_few_images_are_all_samples() -> None:
    """No image is shown twice."""
    assert choose_samples(3).tolist() == [0, 1, 2]
    assert choose_samples(1).tolist() == [0]


def test_images_without_augmentation_are_the_same_in_every_epoch() -> None:
    """Only step 0 then has samples."""
    data: Any = SimpleNamespace(train_transforms=())
    assert not is_augmented(TrainConfig(augment="none"), data)
    assert is_augmented(TrainConfig(augment="flip"), data)
    assert is_augmented(TrainConfig(augment="none"), SimpleNamespace(train_transforms=("step",)))  # type: ignore[arg-type]


@pytest.mark.report
def test_pictures_change_nothing_that_is_trained(store: str, colors: Path) -> None:
    """The weights are bit-identical with and without them, also with random augmentation."""
    settings: dict[str, Any] = {
        "train_data": str(colors),
        "model": SMALL,
        "epochs": 2,
        "batch_size": 8,
        "augment": "strong",
        "mixup": 0.2,
        "device": "cpu",
    }
    drawn, plain = (trialrun.train(**settings, report=report) for report in (True, False))
    assert drawn.weights_sha256 == plain.weights_sha256
    assert read_pictures(store, plain.run_id) == {}
    pictures = read_pictures(store, drawn.run_id)
    steps = {(key, step) for key, step, _ in pictures}
    assert {(key, step) for key in (CONFUSION, SAMPLES) for step in (0, 1, 2)} <= steps
    assert (MISTAKES, 1) in steps
    assert len({pictures[SAMPLES, step, ".png"] for step in (0, 1, 2)}) == 3
    best = pictures[CONFUSION, drawn.best_epoch, ".png"]
    assert pictures[CONFUSION, 0, ".png"] == best
    table = mlflow.MlflowClient(store).list_artifacts(drawn.run_id)
    assert "per_class.json" in {item.path for item in table}


@pytest.mark.report
@pytest.mark.slow
def test_resumed_run_has_the_pictures_of_an_unbroken_one(store: str, colors: Path) -> None:
    """No step is missing, none is there twice, and the files are equal."""
    whole = trialrun.train(**SETTINGS, train_data=str(colors), augment="standard")
    interrupted = interrupt_training(store, colors, augment="standard")
    first = read_pictures(store, interrupted.run_id)
    assert {step for key, step, _ in first if key == CONFUSION} == {1}
    resumed, _ = interrupted.resume()
    pictures = read_pictures(store, resumed.run_id)
    assert {step for _, step, _ in pictures} == {0, 1, 2, 3}
    assert pictures == read_pictures(store, whole.run_id)


@pytest.mark.report
@pytest.mark.slow
def test_trials_of_a_search_have_no_pictures(store: str, colors: Path) -> None:
    """A search has hundreds of runs."""
    found = trialrun.search(
        train_data=str(colors),
        model=SMALL,
        epochs=1,
        batch_size=8,
        trials=1,
        learning_rate="0.01:0.1",
    )
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    assert found is not None
    assert all(client.list_artifacts(run.info.run_id, "images") == [] for run in runs)
