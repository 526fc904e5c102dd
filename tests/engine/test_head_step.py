"""Tests of the step of a last layer on features: the same bits as the step of any network."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import trialrun.engine.fit
from tests.engine.conftest import CPU, SIZE, make_dataset
from tests.engine.inputs.test_features import CONFIG, Network
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.fit import fit
from trialrun.engine.head_step import HeadStep, can_train_head
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing

DATA = TrainingData(make_dataset(25), make_dataset(9, seed=1), 3, Preprocessing(SIZE))


def train(config: TrainConfig, precision: str = "fp32") -> tuple[TrainState, list[EpochResult]]:
    """Train the last layer; return the state and the results of the epochs."""
    compute = replace(CPU, precision=precision)
    state = init_train_state(Network(), "fc.", DATA, config, compute)
    return state, list(fit(state, config))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_grad_norm": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "decay_norms": False},
        {"class_weights": "balanced", "label_smoothing": 0.2, "class_sampling": "balanced"},
        {"precision": "bf16"},
    ],
)
def test_steps_have_the_bits_of_steps_of_any_network(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, momenta, losses and accuracies are equal."""
    config = replace(CONFIG, **settings)
    outcomes = []
    for is_short in (True, False):
        if not is_short:
            monkeypatch.setattr(trialrun.engine.fit, "can_train_head", lambda *_: False)
        state, results = train(config, settings.get("precision", "fp32"))
        metrics = [(r.train_loss, r.train_accuracy, r.learning_rate) for r in results]
        momenta = list(state.optimizer.state_dict()["state"].values())
        outcomes.append([state.trainable.state_dict(), momenta, metrics, state.num_images])
    torch.testing.assert_close(*outcomes, rtol=0, atol=0)


def test_loss_that_is_not_finite_ends_training_before_the_step() -> None:
    """The error names the images of the batch; the weights are those before."""
    state = init_train_state(Network(), "fc.", DATA, CONFIG, CPU)
    batch = state.data.train.load_batch(np.arange(3, 8), 5)
    batch.pixels[2, 1] = torch.nan
    before = {name: weight.clone() for name, weight in state.trainable.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="in epoch 2") as caught:
        HeadStep(state, CONFIG, 2)(batch)
    assert caught.value.positions is not None
    assert caught.value.positions.tolist() == [3, 4, 5, 6, 7]
    torch.testing.assert_close(state.trainable.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings", [{"accumulate_steps": "2"}, {"accumulate_steps": "auto"}, {"augment": "basic"}]
)
def test_parts_of_batches_and_images_have_the_step_of_any_network(settings: dict[str, Any]) -> None:
    """Only whole batches of features can have the short step."""
    states = {}
    for config in (CONFIG, replace(CONFIG, **settings)):
        state = init_train_state(Network(), "fc.", DATA, config, CPU)
        states[config] = can_train_head(state, config, SINGLE_PROCESS)
    assert list(states.values()) == [True, False]
