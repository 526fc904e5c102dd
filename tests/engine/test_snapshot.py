"""Tests of snapshots: a restored training continues bit for bit, within an epoch too."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.results import EpochResult
from trialrun.engine.snapshot import (
    capture_tensors,
    capture_values,
    restore_generators,
    restore_state,
)
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.state_hash import hash_state
from trialrun.models.zoo.networks import build_network, find_head_prefix

DATA = TrainingData(make_dataset(26), make_dataset(9, seed=1), 3, Preprocessing(SIZE))
STEPS = 4  # per epoch: 26 images in batches of 8


class StoppedError(Exception):
    """Training is interrupted."""


def start(config: TrainConfig, network: str, compute: ComputeConfig) -> TrainState:
    """Return the state before the first epoch; it depends on the arguments alone."""
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    module = build_network(network, 3, image_size=SIZE)
    return init_train_state(module, find_head_prefix(module), DATA, config, compute)


def clone_all(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def select_metrics(results: list[EpochResult]) -> list[dict[str, str]]:
    """Return the metrics of each epoch that do not depend on the time."""
    names = ("train_loss", "train_accuracy", "valid_loss", "learning_rate")
    return [{name: repr(result.metrics()[name]) for name in names} for result in results]


def train_interrupted(
    config: TrainConfig,
    network: str,
    compute: ComputeConfig,
    stops: list[int],
    *,
    in_validation: bool = False,
) -> tuple[str, list[EpochResult]]:
    """Train; after each step number in `stops` (from 1) continue in a new state.

    With `in_validation`, batches of validation are counted instead.
    """
    num_steps = 0
    results: list[EpochResult] = []
    snapshot: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None = None

    while True:
        state = start(config, network, compute)
        if snapshot is not None:
            restore_state(state, *snapshot)
            torch.rand(3)  # another process has drawn other numbers
            restore_generators(snapshot[1], compute.device)

        def on_step() -> None:
            nonlocal num_steps
            num_steps += 1
            if num_steps in stops:
                raise StoppedError

        try:
            name = "on_valid_batch" if in_validation else "on_step"
            callbacks: dict[str, Any] = {name: on_step}
            results.extend(fit(state, config, **callbacks))
            return hash_state(state.inference_model().state_dict()), results
        except StoppedError:
            snapshot = (
                clone_all(state.network.state_dict()),
                clone_all(capture_tensors(state)),
                capture_values(state),
            )


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("shufflenet_v2_x0_5", {}),
    "adamw-ema": ("shufflenet_v2_x0_5", {"optimizer": "adamw", "ema": 0.9, "decay_norms": False}),
    "mixing": ("shufflenet_v2_x0_5", {"mixup": 0.4, "cutmix": 0.4, "augment": "strong"}),
    "resizing": ("shufflenet_v2_x0_5", {"progressive_resize": 16, "ema": 0.9, "augment": "flip"}),
    "dropout": ("mobilenet_v3_small", {"warmup_steps": 3, "schedule": "polynomial"}),
    "features": ("shufflenet_v2_x0_5", {"freeze": "backbone"}),
    "frozen": ("mobilenet_v3_small", {"freeze": "backbone", "augment": "flip"}),
    "head-first": ("shufflenet_v2_x0_5", {"freeze_epochs": 1, "layer_decay": 0.5}),
    "head-first-ema": (
        "shufflenet_v2_x0_5",
        {"freeze_epochs": 1, "ema": 0.9, "batch_norm": "frozen", "optimizer": "adamw"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_restored_training_is_bit_identical(case: str) -> None:
    """Two interruptions, within an epoch and after its last step, change no bit of the result."""
    network, settings = CASES[case]
    config = TrainConfig(epochs=2, batch_size=8, learning_rate=0.001, **settings)
    expected_hash, expected = train_interrupted(config, network, CPU, [])
    found_hash, found = train_interrupted(config, network, CPU, [2, STEPS, STEPS + 3])
    num_images = [result.num_train_images for result in found]
    assert num_images == [result.num_train_images for result in expected] == [len(DATA.train)] * 2
    assert select_metrics(found) == select_metrics(expected)
    assert found_hash == expected_hash


def test_interruption_in_validation_changes_nothing() -> None:
    """Validation starts again from the state after the epoch's last step."""
    config = TrainConfig(epochs=2, batch_size=2, ema=0.9)
    expected_hash, expected = train_interrupted(config, "shufflenet_v2_x0_5", CPU, [])
    found_hash, found = train_interrupted(
        config, "shufflenet_v2_x0_5", CPU, [2, 5], in_validation=True
    )
    assert select_metrics(found) == select_metrics(expected)
    assert found_hash == expected_hash


def test_memory_layout_is_kept() -> None:
    """Weights and optimizer states in channels-last memory come back in that layout."""
    compute = ComputeConfig(torch.device("cpu"), "fp32", "NHWC")
    config = TrainConfig(epochs=2, batch_size=8, optimizer="adamw")
    expected, _ = train_interrupted(config, "shufflenet_v2_x0_5", compute, [])
    found, _ = train_interrupted(config, "shufflenet_v2_x0_5", compute, [3])
    assert found == expected


def test_state_of_another_network_is_refused() -> None:
    """Tensors that the network does not have raise an error instead of being skipped."""
    config = TrainConfig(epochs=1, batch_size=8)
    state = start(config, "shufflenet_v2_x0_5", CPU)
    other = start(config, "squeezenet1_1", CPU)
    with pytest.raises(KeyError):
        restore_state(
            state, other.network.state_dict(), capture_tensors(other), capture_values(other)
        )
