"""Tests of a new last layer that is drawn again without building its network."""

from pathlib import Path

import pytest
import torch

from tests.conftest import make_network
from tests.models.zoo.test_constant_values import NETWORKS
from trialrun.models.open import create_network
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.head_draw import find_head_draw
from trialrun.models.zoo.networks import build_network, find_head_prefix


@pytest.mark.parametrize("name", [*NETWORKS, "mobilenet_v2", "convnext_tiny", "mnasnet0_5"])
def test_a_last_layer_is_drawn_as_if_its_network_were_built(name: str) -> None:
    """With another seed, all tensors have the bits of a network that is built with that seed."""

    def build(seed: int) -> tuple[torch.nn.Module, NoRandomValues, torch.Tensor]:
        torch.manual_seed(seed)
        generator = torch.get_rng_state()
        with NoRandomValues(num_random_rows=3) as mode:
            return build_network(name, 3, image_size=None), mode, generator

    network, mode, generator = build(1)
    draw = find_head_draw(network, find_head_prefix(network), mode.calls, generator)
    assert draw is not None
    assert draw.can_repeat
    expected, _, _ = build(2)
    after = torch.get_rng_state()
    torch.manual_seed(2)
    draw.repeat()
    assert torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(network.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_calls_that_change_other_layers_are_not_repeated() -> None:
    """ResNet-18 has layers of 64 rows, and a last layer for as many classes."""
    generator = torch.get_rng_state()
    with NoRandomValues(num_random_rows=64) as mode:
        network = build_network("resnet18", 64, image_size=None)
    assert find_head_draw(network, find_head_prefix(network), mode.calls, generator) is None


def test_only_a_new_last_layer_is_drawn_again(tmp_path: Path) -> None:
    """One that is loaded from the weights is not, nor a network with random weights."""
    draws = []
    for num_classes in (7, 3):
        path = tmp_path / f"{num_classes}.pth"
        torch.save(make_network(num_classes=num_classes).state_dict(), path)
        name = "shufflenet_v2_x0_5"
        initial = create_network(name, 3, image_size=32, weights=str(path))
        draws.append(initial.head_draw is not None)
    draws.append(create_network(name, 3, image_size=32, weights=None).head_draw is not None)
    assert draws == [True, False, False]
