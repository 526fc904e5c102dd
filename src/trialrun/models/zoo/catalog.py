"""Catalog of the networks: number of parameters, image size and published weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torchvision

from trialrun.models.zoo.names import ARCHITECTURES
from trialrun.models.zoo.timm import list_timm_names, read_timm_config


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A network as published.

    Attributes:
        num_params: With 1,000 classes; None if it is known only after the network is built.
        image_size: Height and width in pixels that the published weights were trained at, or the
            network was made for; None if unknown.
        has_weights: Whether weights are published.
    """

    name: str
    num_params: int | None
    image_size: int | None
    has_weights: bool


def list_networks(pattern: str = "*", *, has_timm: bool = False) -> Iterator[CatalogEntry]:
    """Yield torchvision's networks, or timm's, with names that match a shell pattern.

    Raises:
        InvalidParameterError: timm is asked for and not installed.
    """
    describe = _describe_timm if has_timm else _describe_torchvision
    for name in list_timm_names() if has_timm else ARCHITECTURES:
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"timm/{pattern}"):
            yield describe(name)


def _describe_torchvision(name: str) -> CatalogEntry:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    size = weights.transforms().crop_size[0]
    return CatalogEntry(name, weights.meta["num_params"], size, has_weights=True)


def _describe_timm(name: str) -> CatalogEntry:
    config = read_timm_config(name)
    if config is None:
        return CatalogEntry(name, None, None, has_weights=False)
    return CatalogEntry(name, None, config.input_size[-1], has_weights=bool(config.has_weights))
