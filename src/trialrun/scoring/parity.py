"""Parity: whether the forms of a model, such as an exported file, compute equal probabilities.

Tensor letters: N images, C classes.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.pipeline import stack_pixels

NUM_PARITY_IMAGES = 32
MAX_PARITY_DIFFERENCE = 1e-4
PARITY_TAG = "parity_max_difference"
_ODD_SIZES = ((37, 53), (301, 199), (64, 65), (5, 7))  # pixels
_MIN_OWN_SIDE = 64
_OWN_SIZES = ((97, 113), (301, 199), (64, 65), (165, 70))
_BLOCK = 8  # the drawn images have this many coarse cells per side


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest difference of a probability between the reference and each form of a model."""

    num_images: int
    differences: Mapping[str, float]

    @property
    def max_difference(self) -> float:
        """The largest of the differences; infinite if a form returns NaN."""
        return max(self.differences.values(), default=0.0)

    @property
    def is_equal(self) -> bool:
        """Whether all forms agree up to the rounding of fp32."""
        return self.max_difference <= MAX_PARITY_DIFFERENCE

    def make_tags(self) -> dict[str, str]:
        """Return the tag that records the largest difference."""
        return {PARITY_TAG: f"{self.max_difference:.3g}"}

    def describe_largest(self) -> str:
        """Return the form that differs most and by how much."""
        name = max(self.differences, key=self.differences.__getitem__)
        return f"{name} differs by {self.differences[name]:.3g} in a probability"


def compare_forms(
    expected: NDArray[np.float32], forms: Mapping[str, NDArray[np.float32]]
) -> Parity:
    """Compare the (N, C) probabilities of each form with the expected ones."""
    return Parity(
        len(expected),
        {name: _find_largest_difference(expected, found) for name, found in forms.items()},
    )


def _find_largest_difference(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    if expected.shape != found.shape:
        return float("inf")
    difference = float(np.abs(expected - found).max(initial=0.0))
    return difference if np.isfinite(difference) else float("inf")


def choose_parity_images(
    files: Sequence[bytes], sizes: Sequence[tuple[int, int]] = _ODD_SIZES
) -> list[bytes]:
    """Return at least 32 files: the given ones, and drawn ones of these sizes."""
    num_drawn = max(NUM_PARITY_IMAGES - len(files), len(sizes))
    drawn = (draw_image(number, sizes) for number in range(num_drawn))
    return [*files[: NUM_PARITY_IMAGES - len(sizes)], *drawn]


def draw_image(number: int, sizes: Sequence[tuple[int, int]] = _ODD_SIZES) -> bytes:
    """Return a JPEG or PNG file of random cells, of one of `sizes`; the same for each number."""
    generator = np.random.default_rng(number)
    cells = generator.integers(0, 256, (_BLOCK, _BLOCK, 3), dtype=np.uint8)
    size = sizes[number % len(sizes)]
    image = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if number % 2 else "PNG")
    return buffer.getvalue()


def decode_images(preprocessing: Preprocessing, files: Iterable[bytes]) -> list[torch.Tensor]:
    """Return the (3, S, S) uint8 pixels of the files; those that cannot be decoded are left out."""
    images = []
    for data in files:
        try:
            images.append(preprocessing.decode(data))
        except UndecodableError:
            continue
    return images


def prepare_images(preprocessing: Preprocessing, files: Sequence[bytes]) -> list[torch.Tensor]:
    """Return the pixels of at least 32 images: of the given files, and of drawn ones.

    Networks that take images at their own size get none below 64 pixels: many refuse them.
    """
    if preprocessing.image_size is not None:
        return decode_images(preprocessing, choose_parity_images(files))
    images = decode_images(preprocessing, choose_parity_images(files, _OWN_SIZES))
    return [image for image in images if min(image.shape[-2:]) >= _MIN_OWN_SIDE]


def compute_all(network: ScoringNetwork, images: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """Return the (N, C) probabilities of images, the first alone and the others together."""
    if network.preprocessing.image_size is None:
        batches = [[image] for image in images]
    else:
        batches = [list(images[:1]), list(images[1:])]
    outputs = [network.compute_probabilities(stack_pixels(batch)) for batch in batches if batch]
    return torch.cat(outputs).cpu().numpy()
