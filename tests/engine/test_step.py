"""Tests of a training step with networks that compute layers again in the backward pass."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.engine.memory.conftest import DATA, init_state
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.inputs.batches import sequential_batches
from trialrun.engine.step import TrainingStep

NUM_CHANNELS = 256


class Block(nn.Module):
    """Two convolutions on maps of one pixel, computed as in a DenseNet with `memory_efficient`."""

    def __init__(self, *, is_efficient: bool) -> None:
        super().__init__()
        self.is_efficient = is_efficient
        self.layers = nn.Sequential(
            nn.Conv2d(NUM_CHANNELS, NUM_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(NUM_CHANNELS, NUM_CHANNELS, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of as many channels."""
        if self.is_efficient:
            return checkpoint(self.layers, maps, use_reentrant=False)  # type: ignore[no-any-return]
        return self.layers(maps)  # type: ignore[no-any-return]


def compute_gradients(*, is_efficient: bool) -> list[Tensor]:
    """Return the gradients of one batch."""
    torch.manual_seed(1)
    config = TrainConfig(batch_size=11)
    network = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(3, NUM_CHANNELS, 1),
        Block(is_efficient=is_efficient),
        nn.Flatten(),
        nn.Linear(NUM_CHANNELS, DATA.num_classes),
    )
    state = init_state(network, config)
    step = TrainingStep(state, config, SINGLE_PROCESS, 1)
    state.set_training()
    step.compute_gradients(next(sequential_batches(DATA.train, 11)), 11)
    return [p.grad for p in state.network.parameters() if p.grad is not None]


def test_layers_that_are_computed_again_are_computed_in_the_same_way() -> None:
    """Torch compares the tensors of both times, and the gradients are the usual ones."""
    usual, efficient = (compute_gradients(is_efficient=flag) for flag in (False, True))
    assert len(usual) == 8
    for gradient, expected in zip(efficient, usual, strict=True):
        assert torch.equal(gradient, expected)
