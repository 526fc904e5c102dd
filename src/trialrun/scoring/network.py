"""Networks that compute class probabilities: an interface, and torch's implementation.

Tensor letters: N images, C classes, S the image size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.engine.compute.torch_state import use_full_fp32
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier


class ScoringNetwork(Protocol):
    """A trained network on its device, with the classes and the preprocessing of its images."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in index order."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the images, which `compute_probabilities` completes."""

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 on the CPU to (N, C) float32 on the device; each row sums to 1.

        Raises:
            RuntimeError: The network does not accept images of this size.
            OutOfMemoryError: The batch does not fit.
        """


@dataclass(frozen=True, slots=True)
class TorchNetwork:
    """A classifier of torch in eval mode, computing in full fp32."""

    classifier: ImageClassifier
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in index order."""
        return self.classifier.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the images."""
        return self.classifier.preprocessing

    def compute_probabilities(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 to (N, C) float32 on the device; each row sums to 1."""
        with (
            translate_scoring_errors(self.device),
            use_full_fp32(self.device),
            torch.inference_mode(),
        ):
            images = self.preprocessing.normalised(to_device(pixels, self.device))
            probabilities: Tensor = self.classifier(images).softmax(dim=1)
        return probabilities


def prepare_network(classifier: ImageClassifier, device: torch.device) -> ScoringNetwork:
    """Move a classifier to `device` and return the network that computes there.

    Raises:
        OutOfMemoryError: It does not fit in the device's memory.
    """
    with translate_scoring_errors(device):
        return TorchNetwork(classifier.to(device), device)
