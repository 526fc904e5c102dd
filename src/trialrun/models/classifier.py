"""A trained network with what turns its outputs into named classes."""

from torch import Tensor, nn

from trialrun.images.preprocessing import Preprocessing


class ImageClassifier(nn.Module):
    """A network, its classes in index order, and the preprocessing its inputs want.

    Called with (N, 3, S, S) normalised float32 images it returns (N, C) logits.
    """

    def __init__(
        self, network: nn.Module, classes: tuple[str, ...], preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) normalised float32 to (N, C) logits."""
        logits: Tensor = self.network(images)
        return logits
