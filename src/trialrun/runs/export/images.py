"""Samples of images for calibration, parity and timing."""

from collections.abc import Sequence

import torch

from trialrun.errors import InvalidDatasetError
from trialrun.images.decoding.file_io import read_item
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.runs.datasets.sources import open_source
from trialrun.scoring.parity import decode_images, draw_image


def sample_files(data: str, num_images: int) -> list[bytes]:
    """Return the contents of at most `num_images` images of DATA, evenly spread over it.

    Raises:
        InvalidDatasetError: No image can be read.
        DataError: See `open_source`.
    """
    images = open_source(data)
    step = max(len(images.items) // num_images, 1)
    files = []
    for item in images.items[::step][:num_images]:
        try:
            files.append(read_item(images, item).data)
        except UndecodableError:
            continue
    if not files:
        raise InvalidDatasetError(f"{data} contains no readable images", "Give other images.")
    return files


def make_batch(
    preprocessing: Preprocessing, files: Sequence[bytes], num_images: int
) -> torch.Tensor:
    """Return (N, 3, S, S) uint8 pixels of `num_images` images, repeated or drawn if too few."""
    images = decode_images(preprocessing, files[:num_images])
    if preprocessing.image_size is None:
        images = images[:1]  # images of several sizes do not fit into a batch
    images = images or decode_images(preprocessing, [draw_image(0)])
    return torch.stack([images[number % len(images)] for number in range(num_images)])
