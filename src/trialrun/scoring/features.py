"""A network that returns the features before its last layer together with the probabilities.

Tensor letters: N images, C classes, F features, S the image size.
"""

import threading

import torch
from torch import Tensor, nn

from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.zoo import find_head_prefix
from trialrun.scoring.network import ScoringNetwork, TorchNetwork


class FeatureNetwork:
    """A `ScoringNetwork` whose rows contain the F features after the C probabilities."""

    def __init__(self, network: TorchNetwork) -> None:
        self.device = network.device
        self._network = network
        self._captured = threading.local()  # several threads may compute at once
        module = network.classifier.network
        head = module.get_submodule(find_head_prefix(module).removesuffix("."))
        head.register_forward_pre_hook(self._capture)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in index order."""
        return self._network.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the images."""
        return self._network.preprocessing

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, C + F) float32 on the device."""
        probabilities = self._network.compute_probabilities(pixels)
        with torch.inference_mode():
            return torch.cat([probabilities, _flatten(self._captured.features)], dim=1)

    def _capture(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._captured.features = inputs[0]


def add_features(network: ScoringNetwork) -> FeatureNetwork:
    """Return `network` with features in its rows.

    Raises:
        InvalidParameterError: It is not a network of torch.
    """
    if not isinstance(network, TorchNetwork):
        raise InvalidParameterError(
            "embeddings: only a network of torch has a layer to read features from",
            "Score without embeddings, or with the model that was trained.",
        )
    return FeatureNetwork(network)


def _flatten(features: Tensor) -> Tensor:
    """Return (N, F) float32; the inputs of a last convolution are averaged over the image."""
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    return features.flatten(1).float()
