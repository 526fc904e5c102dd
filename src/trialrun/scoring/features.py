"""A network that returns the features before its last layer together with the probabilities.

Tensor letters: N images, C classes, F features, S the image size.
"""

import threading

import torch
from torch import Tensor, nn

from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import find_head_prefix
from trialrun.scoring.network import ScoringNetwork, TorchNetwork, prepare_network


class FeatureNetwork:
    """A `ScoringNetwork` that returns the F features after the C probabilities."""

    def __init__(self, classifier: ImageClassifier, device: torch.device) -> None:
        """Move `classifier` to `device`.

        Raises:
            OutOfMemoryError: It does not fit in the device's memory.
        """
        self.device = device
        self._captured = threading.local()  # several threads may compute at once
        self._network, head = _open_with_head(classifier, device)
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


def _open_with_head(
    classifier: ImageClassifier, device: torch.device
) -> tuple[ScoringNetwork, nn.Module]:
    """Return the network and its last layer; only a linear one is left as it is by optimization."""
    name = find_head_prefix(classifier.network).removesuffix(".")
    network = prepare_network(classifier, device)
    if isinstance(network, TorchNetwork):
        head = network.classifier.network.get_submodule(name)
        if isinstance(head, nn.Linear):
            return network, head
    plain = TorchNetwork(classifier, device)
    return plain, classifier.network.get_submodule(name)


def _flatten(features: Tensor) -> Tensor:
    """Return (N, F) float32; the inputs of a last convolution are averaged over the image."""
    if features.ndim == 4:
        features = features.mean(dim=(2, 3))
    return features.flatten(1).float()
