"""Random changes to training images, on whole batches, each image by a draw of its own.

A draw depends on (seed, epoch, image), so that batch size, order and interruptions do not change
what an image looks like. Tensor letters: N images, S the image size, P the stored size (P >= S).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from trialrun.engine.seeds import seed_for, uniforms

# Area and aspect ratio of the crop: Szegedy et al. 2015, arXiv:1409.4842, section 6.
_CROP_AREA = (0.08, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
_NUM_DRAWS = 5  # area, ratio, left, top, mirror


def augmented(
    pixels: Tensor, positions: NDArray[np.int64], *, augment: str, epoch: int, random_seed: int
) -> Tensor:
    """(N, 3, S, S) uint8 images changed as `augment` (none, flip, standard, strong) says."""
    if augment == "none":
        return pixels
    draws = uniforms(seed_for(random_seed, "augment", epoch), positions, _NUM_DRAWS)
    if augment == "flip":
        return _mirrored(pixels, draws[:, 4])
    cropped = _cropped(pixels, draws)
    if augment == "standard":
        return cropped
    return _trivially_augmented(cropped, positions, epoch, random_seed)


def _mirrored(pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
    chosen = torch.from_numpy(draws < 0.5).to(pixels.device).view(-1, 1, 1, 1)
    return torch.where(chosen, pixels.flip(-1), pixels)


def _cropped(pixels: Tensor, draws: NDArray[np.float64]) -> Tensor:
    """A random rectangle of each image, resized to the whole, half of them mirrored."""
    size = pixels.shape[-1]
    area = _CROP_AREA[0] + draws[:, 0] * (_CROP_AREA[1] - _CROP_AREA[0])
    log_low, log_high = math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])
    ratio = np.exp(log_low + draws[:, 1] * (log_high - log_low))
    width = np.minimum(np.sqrt(area * ratio), 1)
    height = np.minimum(np.sqrt(area / ratio), 1)
    mirror = np.where(draws[:, 4] < 0.5, -1.0, 1.0)
    # affine_grid's coordinates run from -1 to 1: the centre may move within what is not cropped.
    centre_x = (2 * draws[:, 2] - 1) * (1 - width)
    centre_y = (2 * draws[:, 3] - 1) * (1 - height)
    zero = np.zeros_like(width)
    theta = np.stack([width * mirror, zero, centre_x, zero, height, centre_y], axis=1)
    matrices = torch.from_numpy(theta).float().view(-1, 2, 3).to(pixels.device)
    grid = F.affine_grid(matrices, [len(pixels), 3, size, size], align_corners=False)
    sampled = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
    return sampled.round_().clamp_(0, 255).to(torch.uint8)


def _trivially_augmented(
    pixels: Tensor, positions: NDArray[np.int64], epoch: int, random_seed: int
) -> Tensor:
    """TrivialAugment (Mueller and Hutter 2021, arXiv:2103.10158), drawn for each image."""
    transform = v2.TrivialAugmentWide()
    changed = []
    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
        for image, position in zip(pixels, positions.tolist(), strict=True):
            torch.manual_seed(seed_for(random_seed, "trivial", epoch, position))
            changed.append(transform(image))
    return torch.stack(changed)
