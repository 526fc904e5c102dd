"""Running batch-norm statistics, and the moving average, in short runs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.engine.conftest import CPU, SIZE, labelled
from trialrun.config import TrainConfig
from trialrun.engine.batch_norm import RunningStatistics, compute_momentum
from trialrun.engine.ema import compute_decay
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState, init_train_state
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights import hash_weights, serialize_state
from trialrun.models.zoo import build_network, find_head_prefix

BASE = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05)
LEARNABLE = TrainingData(labelled(96), labelled(30, seed=1), 3, Preprocessing(SIZE))


def begun(model: str, config: TrainConfig) -> TrainState:
    """The state of a training of `model` before its first epoch."""
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    network = build_network(model, 3, image_size=SIZE)
    return init_train_state(network, find_head_prefix(network), LEARNABLE, config, CPU)


def last_epoch(state: TrainState, config: TrainConfig) -> EpochResult:
    """The result of the last epoch of a training."""
    return list(fit(state, config))[-1]


def test_momentum_falls_from_1_to_the_layers_own() -> None:
    """The first batch counts alone, the thousandth as much as the layer asks."""
    assert compute_momentum(0.1, 0) == 1
    assert compute_momentum(0.1, 60) == 0.25
    assert compute_momentum(0.1, 1000) == 0.1


def test_averages_are_those_of_a_layer_whose_momentum_is_set_by_hand() -> None:
    """CacheEntry outside the layers, the averages are what torch computes with the same momenta."""
    torch.manual_seed(1)
    ours, theirs = nn.BatchNorm2d(4, momentum=0.3), nn.BatchNorm2d(4)
    statistics = RunningStatistics(ours)
    for step in range(70):
        batch = torch.randn(8, 4, 5, 5) + step
        theirs.momentum = compute_momentum(0.3, step)
        ours(batch)
        theirs(batch)
        statistics.update()
    statistics.store()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("model", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_a_short_run_validates_what_it_has_learned(model: str) -> None:
    """Networks with a momentum made for long runs classify colours after some 100 steps."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
    result = last_epoch(begun(model, config), config)
    assert result.train_accuracy > 0.6
    assert result.validation.accuracy > 0.9
    assert result.evaluation_fault is None


def test_statistics_do_not_change_the_weights() -> None:
    """What is learned has the same bits as with torchvision's own statistics."""

    def parameters(*, own_statistics: bool) -> str:
        state = begun("shufflenet_v2_x0_5", BASE)
        if own_statistics:
            state.batch_norm_statistics = None
            for module in state.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.1
        list(fit(state, BASE))
        return hash_weights(serialize_state(dict(state.network.named_parameters())))

    assert parameters(own_statistics=True) == parameters(own_statistics=False)


def test_the_averages_decay_is_warmed_up() -> None:
    """Early steps forget the initial weights; later ones have the decay that was set."""
    assert compute_decay(0.999, 0) == 0.1
    assert compute_decay(0.999, 80) == 0.9
    assert compute_decay(0.999, 100_000) == 0.999


def test_an_average_with_a_long_memory_serves_a_short_run() -> None:
    """ema=0.999 over 96 steps validates about as well as no average."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8, ema=0.999)
    result = last_epoch(begun("shufflenet_v2_x0_5", config), config)
    assert result.validation.accuracy > 0.9
    assert result.evaluation_fault is None


def freeze_statistics(network: nn.Module) -> None:
    """Make every batch norm evaluate with statistics that have nothing to do with its inputs."""

    def forget(norm: nn.Module, _inputs: object) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if not norm.training:
            assert norm.running_mean is not None
            norm.running_mean.fill_(3.0)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(forget)


def test_stale_statistics_are_found() -> None:
    """A network that learns but validates at chance because of its statistics is reported."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
    state = begun("shufflenet_v2_x0_5", config)
    freeze_statistics(state.network)
    result = last_epoch(state, config)
    assert result.validation.accuracy < 0.6
    assert result.evaluation_fault is not None
    assert result.evaluation_fault.cause == "batch_norm"
    assert result.evaluation_fault.training_mode_accuracy > 0.8
    assert "not overfitting" in str(result.evaluation_fault)


def test_a_stale_moving_average_is_found() -> None:
    """An average that stayed at its initial weights is named as the cause."""
    config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8, ema=0.9)
    state = begun("shufflenet_v2_x0_5", config)
    assert state.ema is not None
    initial = {name: value.clone() for name, value in state.ema.module.state_dict().items()}
    found: list[EpochResult] = []
    for result in fit(state, config):
        found.append(result)
        state.ema.module.load_state_dict(initial)
        state.ema.n_averaged.fill_(10**9)
        state.ema._target = 1.0
    assert found[-1].evaluation_fault is not None
    assert found[-1].evaluation_fault.cause == "ema"


def test_overfitting_is_not_called_a_broken_evaluation_mode() -> None:
    """Labels that mean nothing are learned by heart: training images are right in both modes."""
    train, valid = labelled(24), labelled(30, seed=1)
    shuffled = replace(valid, labels=(valid.labels + 1) % 3)
    task = TrainingData(train, shuffled, 3, Preprocessing(SIZE))
    config = TrainConfig(epochs=30, batch_size=8, learning_rate=0.02, patience=30)
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    result = last_epoch(
        init_train_state(network, find_head_prefix(network), task, config, CPU), config
    )
    assert result.train_accuracy > 0.9
    assert result.validation.accuracy < 0.2
    assert result.evaluation_fault is None


def test_the_check_changes_nothing() -> None:
    """A run whose evaluation mode is broken trains on as if it had not been checked."""

    def weights(*, broken: bool) -> str:
        config = TrainConfig(epochs=8, batch_size=8, learning_rate=0.02, patience=8)
        state = begun("shufflenet_v2_x0_5", config)
        if broken:
            freeze_statistics(state.network)
        assert (last_epoch(state, config).evaluation_fault is not None) is broken
        return hash_weights(serialize_state(dict(state.network.named_parameters())))

    assert weights(broken=True) == weights(broken=False)
