"""Networks that compute class probabilities: an interface, and torch's implementation.

Tensor letters: N images, C classes, S the image size.
"""

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trialrun.config.engines import TORCH_BF16, TORCH_FP32
from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.engine.compute.torch_state import use_full_fp32
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.fold import find_followers, fold_batch_norm
from trialrun.scoring.engines.onednn import fuse_convolutions

_MAX_DIFFERENCE = 1e-5  # of a probability, between the optimised network and the original
_SAMPLE_SIZE = 224  # pixels, for networks that take images at their own size


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
    """A classifier of torch in eval mode, computing in full fp32 or in another dtype."""

    classifier: ImageClassifier
    device: torch.device
    dtype: torch.dtype = torch.float32
    engine: str = TORCH_FP32

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
            logits: Tensor = self.classifier(images.to(self.dtype))
            return logits.float().softmax(dim=1)


def prepare_network(classifier: ImageClassifier, device: torch.device) -> ScoringNetwork:
    """Return the network that computes a classifier's probabilities on `device`.

    Batch norms are folded into the convolutions before them, and on a CPU convolutions compute
    their activations, if probabilities differ by less than 1e-5 on a random image. The network
    shares tensors with `classifier`, which keeps its modules and moves to `device`.

    Raises:
        OutOfMemoryError: It does not fit in the device's memory.
    """
    with translate_scoring_errors(device):
        fast = optimize_network(classifier, fuse=device.type == "cpu")
        return TorchNetwork(fast.to(device), device)


@torch.inference_mode()
def prepare_bf16_network(classifier: ImageClassifier) -> ScoringNetwork:
    """Return the network that computes a classifier's probabilities on the CPU in bf16.

    It shares no tensor with `classifier`. Its probabilities are not compared with the original's.
    """
    followers = find_followers(classifier.network)
    network = fold_batch_norm(classifier.network, followers)
    network = copy.deepcopy(network).to(torch.bfloat16)
    sample = make_sample(classifier.preprocessing).to(torch.bfloat16)
    with contextlib.suppress(RuntimeError, AttributeError):  # oneDNN's operators may be missing
        fused = fuse_convolutions(network, followers, sample)
        if torch.isfinite(fused(sample)).all():
            network = fused
    fast = with_network(classifier, network)
    return TorchNetwork(fast, torch.device("cpu"), torch.bfloat16, TORCH_BF16)


@torch.inference_mode()
def optimize_network(classifier: ImageClassifier, *, fuse: bool) -> ImageClassifier:
    """Return the fastest equal form of a classifier on the CPU, or the classifier itself."""
    sample = make_sample(classifier.preprocessing)
    try:
        followers = find_followers(classifier.network)
        folded = with_network(classifier, fold_batch_norm(classifier.network, followers))
        expected = classifier(sample).softmax(dim=1)
        if fuse and (fused := _fuse_equal(folded, followers, sample, expected)):
            return fused
        return folded if is_equal(folded, sample, expected) else classifier
    except (RuntimeError, ValueError, AssertionError):  # it does not take images of this size
        return classifier


def _fuse_equal(
    folded: ImageClassifier, followers: Mapping[str, str], sample: Tensor, expected: Tensor
) -> ImageClassifier | None:
    """Return a classifier with convolutions that compute activations; None if it is not equal."""
    try:
        fused = with_network(folded, fuse_convolutions(folded.network, followers, sample))
        return fused if is_equal(fused, sample, expected) else None
    except (RuntimeError, AttributeError):  # this torch or this CPU lacks oneDNN's operators
        return None


def make_sample(preprocessing: Preprocessing) -> Tensor:
    """Return (1, 3, S, S) float32: a normalised image of random pixels, always the same."""
    size = preprocessing.image_size or _SAMPLE_SIZE
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
    images = preprocessing.normalised(pixels)
    return images.contiguous(memory_format=torch.channels_last)


def with_network(classifier: ImageClassifier, network: nn.Module) -> ImageClassifier:
    """Return a classifier in eval mode with another network."""
    return ImageClassifier(network, classifier.classes, classifier.preprocessing).eval()


def is_equal(classifier: ImageClassifier, sample: Tensor, expected: Tensor) -> bool:
    """Whether the probabilities of `sample` are the expected ones up to rounding."""
    difference = (classifier(sample).softmax(dim=1) - expected).abs().max()
    return bool(difference < _MAX_DIFFERENCE)  # false for NaN
