"""Fine-tuning: the last layer first, its start, learning rates by layer, and the range test."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.fine_tuning.head_probe import fit_head
from trialrun.engine.fine_tuning.phases import enter_phase
from trialrun.engine.fine_tuning.range_test import find_learning_rate
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.optim import group_by_layer, set_peak_learning_rate
from trialrun.engine.snapshot import capture_tensors, capture_values, restore_state
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.state_hash import hash_state
from trialrun.models.zoo.networks import build_network, find_head_prefix

DATA = TrainingData(make_dataset(24), make_dataset(9, seed=1), 3, Preprocessing(SIZE))
SMALL = "shufflenet_v2_x0_5"


def start(config: TrainConfig, network: str = SMALL) -> TrainState:
    """Return the state before the first epoch; it depends on the arguments alone."""
    torch.manual_seed(1)
    module = build_network(network, 3, image_size=SIZE)
    return init_train_state(module, find_head_prefix(module), DATA, config, CPU)


def copy_state(state: TrainState) -> dict[str, Tensor]:
    """Return copies of the network's tensors."""
    return {name: tensor.clone() for name, tensor in state.network.state_dict().items()}


@pytest.mark.parametrize("settings", [{}, {"augment": "flip"}, {"optimizer": "adamw"}], ids=str)
def test_first_epochs_train_only_the_last_layer(settings: dict[str, Any]) -> None:
    """No other tensor changes before `freeze_epochs` has passed, and all parameters do after it."""
    config = TrainConfig(epochs=2, batch_size=8, freeze_epochs=1, **settings)
    state = start(config)
    before = copy_state(state)
    epochs = fit(state, config)
    next(epochs)
    after = copy_state(state)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}
    next(epochs)
    parameters = dict(state.network.named_parameters())
    assert all(not torch.equal(before[name], value) for name, value in parameters.items())


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    """Its parameters are trained, and its running averages stay those of the initial weights."""
    config = TrainConfig(epochs=1, batch_size=8, batch_norm="frozen")
    state = start(config)
    before = copy_state(state)
    next(fit(state, config))
    assert torch.equal(
        state.network.state_dict()["conv1.1.running_mean"], before["conv1.1.running_mean"]
    )
    assert not torch.equal(state.network.state_dict()["conv1.1.weight"], before["conv1.1.weight"])


@pytest.mark.parametrize("freeze_epochs", [0, 1])
def test_probe_is_the_logistic_regression_of_scikit_learn(freeze_epochs: int) -> None:
    """The probabilities of the training images are those of its LogisticRegression."""
    from sklearn.linear_model import LogisticRegression

    config = TrainConfig(batch_size=8, freeze_epochs=freeze_epochs)
    state = start(config)
    enter_phase(state, config)
    assert fit_head(state, config, SINGLE_PROCESS)
    head = state.network.get_submodule("fc")
    state.network.fc = nn.Identity()
    inputs = DATA.preprocessing.normalised(DATA.train.load_batch(np.arange(24), 24).pixels)
    with torch.no_grad():
        features = state.network.eval()(inputs)
        found = head(features).softmax(dim=1)
    expected = LogisticRegression(max_iter=1000).fit(features.numpy(), DATA.train.labels)
    np.testing.assert_allclose(found, expected.predict_proba(features.numpy()), atol=2e-3)


@pytest.mark.parametrize(
    ("network", "num_groups"), [("resnet18", 6), ("mobilenet_v2", 20), ("vit_b_32", 16)]
)
def test_layers_are_grouped_by_block_in_the_order_of_the_network(
    network: str, num_groups: int
) -> None:
    """Every parameter is in one group, the last layer alone in the last one."""
    with torch.device("meta"):
        module = build_network(network, 3, image_size=64)
    named = list(module.named_parameters())
    groups = group_by_layer(named)
    assert len(groups) == num_groups
    assert sum(len(group) for group in groups) == len(named)
    head = [p for name, p in named if name.startswith(find_head_prefix(module))]
    assert {*map(id, groups[-1])} == {*map(id, head)}


def test_layer_decay_lowers_the_rate_towards_the_input() -> None:
    """The learning rate of each block is half of that of the next; the metric is the highest."""
    config = TrainConfig(epochs=1, batch_size=8, layer_decay=0.5, learning_rate=0.008)
    state = start(config)
    rates = [group["lr"] for group in state.optimizer.param_groups]
    assert rates == [0.008 * 0.5**depth for depth in range(len(rates))]
    assert len(rates) > 3
    assert next(fit(state, replace(config, schedule="constant"))).learning_rate <= 0.008


@pytest.mark.slow
def test_range_test_is_deterministic_and_leaves_no_trace() -> None:
    """Weights, optimizer and generators are those before; a second test gives the same curve."""
    config = TrainConfig(
        epochs=1, batch_size=8, learning_rate="auto", freeze_epochs=1, optimizer="adamw", ema=0.9
    )
    state = start(config)
    before, generator = hash_state(state.network.state_dict()), torch.get_rng_state()
    first = find_learning_rate(state, config, SINGLE_PROCESS)
    assert hash_state(state.network.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert not state.optimizer.state
    assert find_learning_rate(state, config, SINGLE_PROCESS) == first
    assert first.learning_rates[0] < first.learning_rate < first.learning_rates[-1]
    set_peak_learning_rate(state.scheduler, first.learning_rate)
    assert next(fit(state, config)).learning_rate == pytest.approx(first.learning_rate * 0.25)


def test_restored_training_keeps_the_rate_that_was_found() -> None:
    """The schedule continues from the peak of the interrupted training."""
    config = TrainConfig(epochs=2, batch_size=8, learning_rate="auto", layer_decay=0.5)
    state, other = start(config), start(config)
    set_peak_learning_rate(state.scheduler, 0.02)
    next(fit(state, config))
    restore_state(other, state.network.state_dict(), capture_tensors(state), capture_values(state))
    assert other.scheduler.base_lrs == state.scheduler.base_lrs
    other.scheduler.step()
    state.scheduler.step()
    assert other.scheduler.get_last_lr() == state.scheduler.get_last_lr() != [0.0]
