"""Image classifiers: a trained network with its classes and its preprocessing."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from trialrun.errors import InvalidDatasetError
from trialrun.images.decoding.decode import decode_pillow_image
from trialrun.images.decoding.file_io import read_file
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing


class ImageClassifier(nn.Module):
    """A network, its classes in index order, and the preprocessing of its inputs.

    Maps (N, 3, S, S) normalised float32 images to (N, C) logits. Weights and images are stored
    channels last, which makes inference 1.4 times as fast (ResNet-18 at 224 pixels on two cores,
    benchmarks/scoring.py).
    """

    def __init__(
        self, network: nn.Module, classes: tuple[str, ...], preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.preprocessing = preprocessing
        self.to(memory_format=torch.channels_last)

    def preprocess(
        self, image: "str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor"
    ) -> Tensor:
        """Convert one image to the network's input, exactly as scoring does.

        Args:
            image: A file's path, a file's bytes, a Pillow image, or RGB pixels: an (H, W, 3)
                array or a (3, H, W) tensor, both uint8.

        Returns:
            (1, 3, S, S) float32 on the network's device, where S is the model's image size.

        Raises:
            InvalidDatasetError: The file cannot be read, or is not an image.
            TypeError: `image` has another type, dtype or shape.
        """
        try:
            pixels = _prepare_any(self.preprocessing, image)
        except UndecodableError as error:
            prefix = f"{image}: " if isinstance(image, str | Path) else ""
            raise InvalidDatasetError(f"{prefix}{error}", "Give a readable image.") from error
        device = next(self.parameters()).device
        return self.preprocessing.normalised(pixels[None].to(device))

    def forward(self, images: Tensor) -> Tensor:
        """Compute (N, C) logits of (N, 3, S, S) normalised float32 images."""
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits


def _prepare_any(preprocessing: Preprocessing, image: object) -> Tensor:
    """Return (3, S, S) uint8 RGB pixels of an image in any form `preprocess` accepts."""
    if isinstance(image, str | Path):
        path = Path(image).expanduser().resolve()
        return preprocessing.decode(read_file(path.parent, path.name))
    if isinstance(image, bytes | bytearray | memoryview):
        return preprocessing.decode(bytes(image))
    if isinstance(image, Image.Image):
        return preprocessing.prepare(decode_pillow_image(image, preprocessing.value_range))
    if isinstance(image, np.ndarray | Tensor):
        return preprocessing.prepare(_to_rgb_pixels(image))
    raise TypeError(
        f"{type(image).__name__} is not an image: "
        "give a path, bytes, a Pillow image, a NumPy array or a tensor"
    )


def _to_rgb_pixels(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Copy an array or a tensor into the decoder's form: (3, H, W), channels last in memory."""
    if isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3:
        if pixels.shape[0] == 3:
            return torch.from_numpy(pixels.permute(1, 2, 0).cpu().numpy().copy()).permute(2, 0, 1)
    elif isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[2:] == (3,):
        return torch.from_numpy(np.array(pixels, order="C")).permute(2, 0, 1)
    raise TypeError(
        f"pixels of shape {tuple(pixels.shape)} and type {pixels.dtype}: "
        "give a uint8 array of shape (H, W, 3) or a uint8 tensor of shape (3, H, W)"
    )
