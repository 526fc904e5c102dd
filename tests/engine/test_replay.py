"""Repetition of a step whose loss is not finite: the layer and the images at fault."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.engine.memory.conftest import build_norm_network, build_plain_network, init_state
from trialrun.config import TrainConfig
from trialrun.engine.replay import LOSS, replay_step

POSITIONS = np.array([4, 9, 1, 0, 7, 3, 2, 5])  # an image's class is its position modulo 3


class Overflow(nn.Module):
    """A layer whose output is infinite for images that are bright in the first color channel."""

    def __init__(self) -> None:
        super().__init__()
        self.is_bright = torch.zeros(0, dtype=torch.bool)

    def forward(self, values: Tensor) -> Tensor:
        """Return `values`, infinite for the bright images of the last input."""
        return values.masked_fill(self.is_bright[:, None, None, None], float("inf"))


def watch_input(network: nn.Module, layer: Overflow) -> None:
    """Let `layer` know the images that go into `network`."""

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        means = inputs[0].detach().mean(dim=(2, 3))
        layer.is_bright = means.argmax(dim=1) == 0

    network.register_forward_pre_hook(note)


@pytest.mark.parametrize("accumulate_steps", [1, 2, 3])
def test_layer_and_images_are_found(accumulate_steps: int) -> None:
    """The images of all parts of the batch are named, in the order of the batch."""
    layer = Overflow()
    network = build_plain_network(layer)
    watch_input(network, layer)
    config = TrainConfig(epochs=1, batch_size=8, accumulate_steps=accumulate_steps)
    found = replay_step(init_state(network, config), config, POSITIONS)
    assert found is not None
    assert (found.layer, found.kind) == ("2", "Overflow")
    assert found.positions.tolist() == [9, 0, 3]
    assert found.has_finite_weights
    assert 0 < found.largest_before < 1e4


def test_weights_that_are_not_finite_are_named() -> None:
    """All images are at fault then."""
    network = build_norm_network()
    config = TrainConfig(epochs=1, batch_size=8)
    state = init_state(network, config)
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] = float("nan")
    found = replay_step(state, config, POSITIONS)
    assert found is not None
    assert (found.layer, found.kind, found.has_finite_weights) == ("0", "Conv2d", False)
    assert found.positions.tolist() == POSITIONS.tolist()


def test_loss_itself_is_named() -> None:
    """All layers are finite: the logits are so far apart that their loss is infinite."""
    network = build_plain_network()
    config = TrainConfig(epochs=1, batch_size=8, label_smoothing=0.1)
    state = init_state(network, config)
    with torch.no_grad():
        *_, weight, bias = network.parameters()
        weight.zero_()
        bias.copy_(torch.tensor([3e38, -3e38, -3e38]))
    found = replay_step(state, config, POSITIONS)
    assert found is not None
    assert found.layer == LOSS
    assert found.positions.tolist() == POSITIONS.tolist()


def test_finite_step_is_none() -> None:
    """Nothing is found where the loss is finite."""
    config = TrainConfig(epochs=1, batch_size=8)
    assert replay_step(init_state(build_norm_network(), config), config, POSITIONS) is None
