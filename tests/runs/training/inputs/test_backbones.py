"""Tests of networks that a process trains again with another last layer."""

from pathlib import Path

import pytest
import torch

from tests.conftest import make_network
from trialrun.models.open import InitialNetwork, create_network
from trialrun.models.weights.state_hash import hash_frozen_layers, hash_state
from trialrun.runs.training.inputs.backbones import NetworkMemory, Note


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights for another number of classes."""
    path = tmp_path / "weights.pth"
    torch.save(make_network(num_classes=7).state_dict(), path)
    return path


class Builds:
    """Builds networks, and counts them."""

    def __init__(self, weights: Path | None) -> None:
        self.number = 0
        self._weights = str(weights) if weights else None

    def __call__(self, note: Note) -> InitialNetwork:
        """Build a network."""
        self.number += 1
        note(f"network {self.number}")
        return create_network("shufflenet_v2_x0_5", 3, image_size=32, weights=self._weights)


def ignore(_text: str) -> None:
    """Drop a note."""


def test_a_trained_network_gets_the_values_of_a_new_one(weights: Path) -> None:
    """It has the bits, the hash, the mode and the notes of a network that is built."""
    memory, build, notes = NetworkMemory(), Builds(weights), list[str]()
    first = memory.create("key", 1, build, notes.append)
    memory.hash_initial()
    with torch.no_grad():
        first.network.get_parameter("fc.weight").fill_(5)
    first.network.get_parameter("fc.bias").grad = torch.ones(3)
    first.network.eval()
    again = memory.create("key", 2, build, notes.append)
    assert again is first
    assert (build.number, notes) == (1, ["network 1", "network 1"])
    expected = NetworkMemory().create("key", 2, build, ignore).network.state_dict()
    torch.testing.assert_close(again.network.state_dict(), expected, rtol=0, atol=0)
    assert memory.hash_initial() == hash_state(expected)
    assert all(module.training for module in again.network.modules())
    assert again.network.get_parameter("fc.bias").grad is None


def test_another_key_builds_another_network(weights: Path) -> None:
    """Such as that of changed weights."""
    memory, build = NetworkMemory(), Builds(weights)
    first = memory.create("key", 1, build, ignore)
    second = memory.create("other", 1, build, ignore)
    assert second is not first
    assert memory.hash_initial() == hash_state(second.network.state_dict())
    assert build.number == 2


def test_random_weights_are_built_again() -> None:
    """All their layers depend on the seed."""
    memory, build = NetworkMemory(), Builds(None)
    hashes = set()
    for seed in (1, 2, 1):
        memory.create("key", seed, build, ignore)
        hashes.add(memory.hash_initial())
    assert (build.number, len(hashes)) == (3, 2)


def test_the_hash_of_frozen_layers_is_that_of_all_but_the_last_one(weights: Path) -> None:
    """It names their features: the same for each last layer, another one for other weights."""
    hashes = []
    for seed, scale in ((1, 1.0), (2, 1.0), (1, 1.001)):
        memory = NetworkMemory()
        network = memory.create("key", seed, Builds(weights), ignore).network
        network.get_parameter("conv1.0.weight").data *= scale
        hashes.append(memory.hash_frozen())
        assert hashes[-1] == hash_frozen_layers(network.state_dict(), "fc.")
    assert hashes[0] == hashes[1] != hashes[2]
