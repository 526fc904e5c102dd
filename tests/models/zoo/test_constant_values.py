"""Tests of networks that are built without random values."""

from pathlib import Path

import pytest
import torch

from tests.serving.http.servers import write_small_model
from trialrun.models.open import open_classifier
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.networks import build_network, find_head_prefix

NETWORKS = (
    *("densenet121", "googlenet", "inception_v3", "mobilenet_v3_small", "resnet18"),
    *("squeezenet1_1", "swin_t", "vit_b_16", "timm/resnet10t", "timm/vit_tiny_patch16_224"),
)


@pytest.mark.parametrize("name", NETWORKS)
def test_building_draws_no_random_numbers(name: str) -> None:
    """Neither torch's layers, nor torchvision's networks, nor timm's."""
    before = torch.get_rng_state()
    with NoRandomValues():
        build_network(name, 3, image_size=None)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_last_layer_is_random(name: str) -> None:
    """It gets the values that the network gives it, which depend on the seed; ViT's are zero."""
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with NoRandomValues(num_random_rows=3):
            network = build_network(name, 3, image_size=None)
        heads.append(network.get_parameter(f"{find_head_prefix(network)}weight"))
    usual = build_network(name, 3, image_size=None)
    expected = usual.get_parameter(f"{find_head_prefix(usual)}weight").std().item()
    assert heads[0].std().item() == pytest.approx(expected, rel=0.2)
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2]) == (expected == 0)


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm/vit_tiny_patch16_224"])
def test_buffers_have_their_values(name: str) -> None:
    """Some are not stored with a model, and are not loaded."""
    usual = dict(build_network(name, 3, image_size=None).named_buffers())
    with NoRandomValues():
        network = build_network(name, 3, image_size=None)
    for key, buffer in network.named_buffers():
        assert torch.equal(buffer, usual[key]), key


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    """A training that checks its model afterwards continues with the same numbers."""
    folder = write_small_model(tmp_path / "model")
    before = torch.get_rng_state()
    open_classifier(folder)
    assert torch.equal(torch.get_rng_state(), before)
