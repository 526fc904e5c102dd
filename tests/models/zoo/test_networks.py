"""Every network: built, trained by one step, stored, loaded and scored."""

import sys
from pathlib import Path

import pytest

from benchmarks.zoo import check_network
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.models import ARCHITECTURES
from trialrun.models.weights.initial import describe_initial_weights
from trialrun.models.zoo.catalog import list_networks
from trialrun.models.zoo.networks import build_network, find_head_prefix

TIMM = ("timm/resnet10t", "timm/vit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224")
# The largest networks have the code of smaller ones; `python -m benchmarks.zoo` covers them too.
MAX_PARAMS = 100_000_000
LARGE_FAMILIES = ("vgg11", "vgg11_bn")  # even their smallest networks are larger
NETWORKS = [
    entry.name
    for entry in list_networks()
    if entry.name in LARGE_FAMILIES or (entry.num_params or 0) <= MAX_PARAMS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_trains_and_survives_the_disk(name: str, tmp_path: Path) -> None:
    """Also those with fixed sizes, auxiliary heads, and last layers in other places."""
    check_network(name, tmp_path)
    (tmp_path / "model.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_train_and_survive_the_disk(name: str, tmp_path: Path) -> None:
    """A plain one, one with a fixed image size, and one with two last layers."""
    check_network(name, tmp_path)


def test_catalog_lists_every_network_with_its_size() -> None:
    """The numbers are torchvision's own."""
    entries = {entry.name: entry for entry in list_networks()}
    assert tuple(entries) == ARCHITECTURES
    assert (entries["mobilenet_v2"].num_params, entries["mobilenet_v2"].image_size) == (
        3_504_872,
        224,
    )
    assert [entry.name for entry in list_networks("resnet1?")] == ["resnet18"]


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("timm/resnet10t", "fc."),
        ("timm/vit_tiny_patch16_224", "head."),
        ("timm/deit_tiny_distilled_patch16_224", "head"),
    ],
)
def test_last_layers_of_timm_are_found(name: str, prefix: str) -> None:
    """Networks with two last layers have one prefix for both."""
    network = build_network(name, 3, image_size=224)
    found = find_head_prefix(network)
    assert found == prefix
    heads = [name for name in network.state_dict() if name.startswith(found)]
    assert all("head" in name or "fc" in name for name in heads)


def test_unknown_network_of_timm_is_refused() -> None:
    """The hint names the command that lists timm's networks."""
    with pytest.raises(InvalidModelDirectoryError, match="has no resnet1999") as raised:
        build_network("timm/resnet1999", 3, image_size=224)
    assert "--timm" in raised.value.hint


def test_network_of_timm_without_timm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidParameterError) as raised:
        build_network("timm/resnet10t", 3, image_size=224)
    assert "trialrun[timm]" in raised.value.hint


def test_fixed_size_of_timm_is_chosen() -> None:
    """A network for images of 224 pixels gets them, whatever the images' size."""
    expected = describe_initial_weights("timm/vit_tiny_patch16_224", None).expected_input
    assert expected.choose_size(32) == 224
    assert describe_initial_weights("timm/resnet10t", None).expected_input.choose_size(32) == 32
