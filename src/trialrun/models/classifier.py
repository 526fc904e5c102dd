"""A trained network with what turns its outputs into named classes."""

import torch
from torch import Tensor, nn

from trialrun.images.preprocessing import Preprocessing


class ImageClassifier(nn.Module):
    """A network, its classes in index order, and the preprocessing its inputs want.

    Called with (N, 3, S, S) normalised float32 images it returns (N, C) logits. Weights and images
    lie channels last in memory: networks then answer 1.4 times as fast (ResNet-18 at 224 pixels on
    two cores, benchmarks/scoring.py).
    """

    def __init__(
        self, network: nn.Module, classes: tuple[str, ...], preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.preprocessing = preprocessing
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) normalised float32 to (N, C) logits."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits
