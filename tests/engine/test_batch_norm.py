"""Tests of running batch-norm statistics and of the moving average in short runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.engine.batch_norm import RunningStatistics, compute_momentum
from trialrun.engine.ema import compute_decay
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.serialization import hash_weights, serialize_state
from trialrun.models.zoo.networks import build_network, find_head_prefix

BASE = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05)
DATA = TrainingData(make_dataset(96), make_dataset(30, seed=1), 3, Preprocessing(SIZE))


def init_state(model: str, config: TrainConfig) -> TrainState:
    """Return the state of `model` before its first epoch."""
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    network = build_network(model, 3, image_size=SIZE)
    return init_train_state(network, find_head_prefix(network), DATA, config, CPU)


def train_to_end(state: TrainState, config: TrainConfig) -> EpochResult:
    """Train and return the last epoch's result."""
    return list(fit(state, config))[-1]


def test_momentum_falls_from_1_to_that_of_the_layer() -> None:
    """The first batch has weight 1, the thousandth the weight that the layer sets."""
    assert compute_momentum(0.1, 0) == 1
    assert compute_momentum(0.1, 60) == 0.25
    assert compute_momentum(0.1, 1000) == 0.1


def test_averages_equal_those_of_a_layer_with_the_same_momentum() -> None:
    """Averages outside the layers equal those that torch computes with the same momenta."""
    torch.manual_seed(1)
    ours, expected = nn.BatchNorm2d(4, momentum=0.3), nn.BatchNorm2d(4)
    statistics = RunningStatistics(ours)
    for step in range(70):
        batch = torch.randn(8, 4, 5, 5) + step
        expected.momentum = compute_momentum(0.3, step)
        ours(batch)
        expected(batch)
        statistics.update()
    statistics.store()
    torch.testing.assert_close(ours.running_mean, expected.running_mean)
    torch.testing.assert_close(ours.running_var, expected.running_var)


@pytest.mark.parametrize(
    "model",
    ["mobilenet_v3_small", pytest.param("mobilenet_v3_large", marks=pytest.mark.slow)],
)
def test_short_run_is_validated_well(model: str) -> None:
    """Networks with a momentum for long runs classify colors after about 100 steps."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
    result = train_to_end(init_state(model, config), config)
    assert result.train_accuracy > 0.6
    assert result.validation.accuracy > 0.9
    assert result.evaluation_fault is None


def test_statistics_do_not_change_the_weights() -> None:
    """Weights have the same bits as with torchvision's own statistics."""

    def train_parameters(*, own_statistics: bool) -> str:
        state = init_state("shufflenet_v2_x0_5", BASE)
        if own_statistics:
            state.batch_norm_statistics = None
            for module in state.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.1
        list(fit(state, BASE))
        return hash_weights(serialize_state(dict(state.network.named_parameters())))

    assert train_parameters(own_statistics=True) == train_parameters(own_statistics=False)


def test_decay_is_warmed_up() -> None:
    """Early steps have a low decay; later ones have the decay of the setting."""
    assert compute_decay(0.999, 0) == 0.1
    assert compute_decay(0.999, 80) == 0.9
    assert compute_decay(0.999, 100_000) == 0.999


@pytest.mark.slow
def test_high_decay_works_in_a_short_run() -> None:
    """ema=0.999 over 96 steps validates about as well as training without an average."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8, ema=0.999)
    result = train_to_end(init_state("shufflenet_v2_x0_5", config), config)
    assert result.validation.accuracy > 0.9
    assert result.evaluation_fault is None


def break_statistics(network: nn.Module) -> None:
    """Make every batch norm evaluate with wrong statistics."""

    def overwrite_mean(norm: nn.Module, _inputs: object) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if not norm.training:
            assert norm.running_mean is not None
            norm.running_mean.fill_(3.0)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(overwrite_mean)


@pytest.mark.slow
def test_stale_statistics_are_reported() -> None:
    """A fault is reported if a network validates at chance because of its statistics."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
    state = init_state("shufflenet_v2_x0_5", config)
    break_statistics(state.network)
    result = train_to_end(state, config)
    assert result.validation.accuracy < 0.6
    assert result.evaluation_fault is not None
    assert result.evaluation_fault.cause == "batch_norm"
    assert result.evaluation_fault.training_mode_accuracy > 0.8
    assert "not overfitting" in str(result.evaluation_fault)


@pytest.mark.slow
def test_stale_moving_average_is_reported() -> None:
    """An average that stays at its initial weights is reported as the cause."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8, ema=0.9)
    state = init_state("shufflenet_v2_x0_5", config)
    assert state.ema is not None
    initial = {name: value.clone() for name, value in state.ema.module.state_dict().items()}
    results: list[EpochResult] = []
    for result in fit(state, config):
        results.append(result)
        state.ema.module.load_state_dict(initial)
        state.ema.n_averaged.fill_(10**9)
        state.ema._target = 1.0
    assert results[-1].evaluation_fault is not None
    assert results[-1].evaluation_fault.cause == "ema"


@pytest.mark.slow
def test_overfitting_is_not_reported_as_a_fault() -> None:
    """With overfitting, training images are classified well in both modes."""
    train, valid = make_dataset(24), make_dataset(30, seed=1)
    shuffled = replace(valid, labels=(valid.labels + 1) % 3)
    data = TrainingData(train, shuffled, 3, Preprocessing(SIZE))
    config = TrainConfig(epochs=30, batch_size=8, learning_rate=0.02, patience=30)
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    result = train_to_end(
        init_train_state(network, find_head_prefix(network), data, config, CPU), config
    )
    assert result.train_accuracy > 0.9
    assert result.validation.accuracy < 0.2
    assert result.evaluation_fault is None


@pytest.mark.slow
def test_check_does_not_change_training() -> None:
    """A run with a broken evaluation mode gives the same weights as one without a check."""

    def train_weights(*, broken: bool) -> str:
        config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
        state = init_state("shufflenet_v2_x0_5", config)
        if broken:
            break_statistics(state.network)
        assert (train_to_end(state, config).evaluation_fault is not None) is broken
        return hash_weights(serialize_state(dict(state.network.named_parameters())))

    assert train_weights(broken=True) == train_weights(broken=False)
