"""Random augmentation of batches of training images.

Each image has its own draws, which depend on (seed, epoch, image) alone: batch size, order and
interruptions do not change how an image is augmented. Tensor letters: N images, S the image size,
P the stored size (P >= S), F the full size (F >= S) of which progressive_resize makes S.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from trialrun.engine.compute.device import to_device
from trialrun.engine.inputs.seeds import derive_seed, draw_uniforms
from trialrun.images.decoding.transforms import TransformStep

# Area and aspect ratio of the crop: Szegedy et al. 2015, arXiv:1409.4842, section 6.
_CROP_AREA = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10  # as torchvision's
_NUM_DRAWS = 5  # area, ratio, left, top, mirror


def augment_batch(
    pixels: Tensor,
    positions: NDArray[np.int64],
    *,
    augment: str,
    epoch: int,
    random_seed: int,
    size: int | None = None,
    full_size: int | None = None,
    steps: Sequence[TransformStep] = (),
    aspects: NDArray[np.float32] | None = None,
) -> Tensor:
    """Augment (N, 3, P, P) uint8 images; return (N, 3, S, S) uint8.

    `positions`, (N,), are the images' positions in the data set. `augment` is none, flip, standard
    or strong. `size` is S, None means F; `full_size` is F, None means S, or P without either.
    `steps` are the user's own transforms, which replace `augment`. `aspects`, (N,), are the aspect
    ratios of images that are stored squashed: standard and strong then crop from the whole image in
    its own aspect ratio.
    """
    full_size = full_size or size or pixels.shape[-1]
    size = size or full_size
    if steps:
        return _apply_transforms(
            pixels, positions, steps, size, derive_seed(random_seed, "steps", epoch)
        )
    if augment in ("none", "flip") and pixels.shape[-1] != size:
        pixels = resize_square(pixels, size)
    if augment == "none":
        return pixels
    draws = draw_uniforms(derive_seed(random_seed, "augment", epoch), positions, _NUM_DRAWS)
    if augment == "flip":
        return _flip_random(pixels, draws[:, 4])
    seed = derive_seed(random_seed, "crop", epoch)
    retries = draw_uniforms(seed, positions, 2 * (_CROP_ATTEMPTS - 1))
    draws = np.concatenate([draws, retries], axis=1)
    if augment == "standard":
        if size != full_size:  # crops do not average pixels; this costs a third of a crop
            pixels = resize_square(pixels, round(pixels.shape[-1] * size / full_size))
        return _crop_random(pixels, draws, size, aspects)
    # TrivialAugment moves images by pixels, so it changes them before they are made smaller.
    cropped = _crop_random(pixels, draws, full_size, aspects)
    return resize_square(_apply_trivial_augment(cropped, positions, epoch, random_seed), size)


def _flip_random(pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
    mirror = to_device(torch.from_numpy(draws < 0.5), pixels.device).view(-1, 1, 1, 1)
    return torch.where(mirror, pixels.flip(-1), pixels)


def resize_square(images: Tensor, size: int) -> Tensor:
    """Crop the central square of each image and resize it; all images have the same size."""
    if images.shape[-2:] == (size, size):
        return images
    side = min(images.shape[-2:])
    resized: Tensor = functional.resize(
        functional.center_crop(images, [side, side]), [size, size], antialias=True
    )
    return resized


def _draw_boxes(
    draws: NDArray[np.float64], aspects: NDArray[np.float32] | None
) -> tuple[NDArray[np.float64], ...]:
    """Return width, height and centre of each crop in affine_grid's units, as RandomResizedCrop.

    The first of ten boxes inside the image is taken, else the largest central one of an
    allowed ratio. The units are half the image's sides, from the image's centre.
    """
    aspect = np.ones(len(draws)) if aspects is None else aspects.astype(np.float64)
    area = _CROP_AREA[0] + draws[:, [0, *range(5, draws.shape[1], 2)]] * np.diff(_CROP_AREA)
    log_low, log_high = math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])
    log_ratio = log_low + draws[:, [1, *range(6, draws.shape[1], 2)]] * (log_high - log_low)
    relative = np.exp(log_ratio) / aspect[:, None]
    widths, heights = np.sqrt(area * relative), np.sqrt(area / relative)
    is_inside = (widths <= 1) & (heights <= 1)
    has_box, first = is_inside.any(axis=1), (np.arange(len(draws)), is_inside.argmax(axis=1))
    largest = aspect.clip(*_CROP_RATIO) / aspect
    width = np.where(has_box, widths[first], np.minimum(largest, 1))
    height = np.where(has_box, heights[first], np.minimum(1 / largest, 1))
    centre_x = np.where(has_box, (2 * draws[:, 2] - 1) * (1 - width), 0)
    centre_y = np.where(has_box, (2 * draws[:, 3] - 1) * (1 - height), 0)
    return width, height, centre_x, centre_y


def _crop_random(
    pixels: Tensor,
    draws: NDArray[np.float64],
    size: int,
    aspects: NDArray[np.float32] | None,
) -> Tensor:
    """Crop a random rectangle of each image, resize it to `size` and mirror half of the images.

    `draws`, (N, 23), are in [0, 1): area, ratio, left, top, mirror, then area and ratio of further
    boxes.
    """
    width, height, centre_x, centre_y = _draw_boxes(draws, aspects)
    mirror = np.where(draws[:, 4] < 0.5, -1.0, 1.0)
    zero = np.zeros_like(width)
    theta = np.stack([width * mirror, zero, centre_x, zero, height, centre_y], axis=1)
    matrices = to_device(torch.from_numpy(theta).float(), pixels.device).view(-1, 2, 3)
    grid = F.affine_grid(matrices, [len(pixels), 3, size, size], align_corners=False)
    sampled = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _apply_trivial_augment(
    pixels: Tensor, positions: NDArray[np.int64], epoch: int, random_seed: int
) -> Tensor:
    """Apply TrivialAugment (Mueller and Hutter 2021, arXiv:2103.10158) to each image."""
    seed = derive_seed(random_seed, "trivial", epoch)
    return torch.stack(_apply_per_image(v2.TrivialAugmentWide(), pixels, positions, seed))


def _apply_transforms(
    pixels: Tensor,
    positions: NDArray[np.int64],
    steps: Sequence[TransformStep],
    size: int,
    seed: int,
) -> Tensor:
    """Apply the torchvision transforms that `steps` name, then resize images to `size`."""
    transform = v2.Compose([getattr(v2, step.name)(**step.arguments) for step in steps])
    augmented = _apply_per_image(transform, pixels, positions, seed)
    resized = [resize_square(image, size) for image in augmented]
    return torch.stack(resized)


def _apply_per_image(
    transform: v2.Transform, pixels: Tensor, positions: NDArray[np.int64], seed: int
) -> list[Tensor]:
    augmented = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the CPU's global generator
        for image, position in zip(pixels, positions.tolist(), strict=True):
            # torch.manual_seed would also seed the GPU's generator, which dropout draws from.
            torch.default_generator.manual_seed(derive_seed(seed, "image", position))
            augmented.append(transform(image))
    return augmented
