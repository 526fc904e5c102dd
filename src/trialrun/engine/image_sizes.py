"""Sizes of training images by epoch (progressive_resize); this module does not import torch.

The rule is that of Composer's ProgressiveResizing: half the size in the first half of the run, then
linear growth. But growth ends early: the last third of the run has the full size, instead of the
last fifth. The learning rate falls in these epochs only: docs/resizing.md has the measurements.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from trialrun.config import TrainConfig
from trialrun.config.settings import OFF_TEXT, ON_TEXT
from trialrun.config.train_checks import check_first_size
from trialrun.engine.steps import count_frozen_epochs

# Shares of the epochs that train all layers; fractions, so that their multiples are exact.
_FIRST_SHARE, _FULL_SHARE = Fraction(1, 2), Fraction(1, 3)
_GROWTH_SHARE = Fraction(3, 10)  # in which growth would reach the full size
_LARGEST_STEP = 32  # pixels; networks halve the size up to five times
_MIN_STEPS = 8  # from 0 to the full size
# Pixels. Below, a step of ResNet-18 spends most of its time on weights, which smaller images do not
# change, and accuracy falls: docs/log.md.
_MIN_HALF = 64


@dataclass(frozen=True, slots=True)
class SizeSchedule:
    """The size of the training images in each epoch; sizes in pixels, epochs count from 1.

    The first `num_head_epochs` train the last layer alone, at the full size. The others start at
    `first`. Between `first` and `full`, sizes are multiples of `step`: each further size costs
    planning of kernels, and memory of another shape.
    """

    first: int
    full: int
    num_epochs: int
    num_head_epochs: int = 0

    @property
    def step(self) -> int:
        """The distance between sizes."""
        return find_size_step(self.full)

    @property
    def num_uncounted_epochs(self) -> int:
        """The number of epochs before those of the full size that end the run."""
        return self.num_epochs - _count_full_epochs(self.num_epochs - self.num_head_epochs)

    def choose_size(self, epoch: int) -> int:
        """Return the size in an epoch, which never falls after the epochs of the last layer."""
        if epoch <= self.num_head_epochs or epoch > self.num_uncounted_epochs:
            return self.full
        # The middle of the epoch, as a share of the epochs that train all layers.
        middle = Fraction(
            2 * (epoch - self.num_head_epochs) - 1, 2 * (self.num_epochs - self.num_head_epochs)
        )
        growth = (middle - _FIRST_SHARE) / _GROWTH_SHARE
        if growth <= 0:
            return self.first
        size = self.step * round((self.first + growth * (self.full - self.first)) / self.step)
        return min(max(size, self.first), self.full)

    def list_sizes(self) -> list[tuple[int, int]]:
        """Return each size after the epochs of the last layer, and the first epoch that has it."""
        epochs = range(self.num_head_epochs + 1, self.num_epochs + 1)
        found: list[tuple[int, int]] = []
        for size in self._list_candidates():
            index = bisect_left(epochs, size, key=self.choose_size)
            if index < len(epochs) and self.choose_size(epochs[index]) == size:
                found.append((size, epochs[index]))
        return found

    def average_pixels(self, epoch: int) -> float:
        """Return the mean number of pixels of a training image from `epoch`, which has all layers.

        The operations of a step are about proportional to it.
        """
        sizes = self.list_sizes()
        ends = [*(first for _, first in sizes[1:]), self.num_epochs + 1]
        pixels = sum(
            size**2 * max(end - max(first, epoch), 0)
            for (size, first), end in zip(sizes, ends, strict=True)
        )
        return pixels / (self.num_epochs + 1 - epoch)

    def _list_candidates(self) -> Iterator[int]:
        yield self.first
        yield from range((self.first // self.step + 1) * self.step, self.full, self.step)
        yield self.full

    def __str__(self) -> str:
        """Return the sizes with the epochs of each, as `112 (epochs 1 to 3), 224 (epochs 4 to 6)`.

        The sizes of epochs that train the last layer alone are left out.
        """
        sizes = self.list_sizes()
        ends = [*(first - 1 for _, first in sizes[1:]), self.num_epochs]
        parts = [
            f"{size} (epoch {first})" if first == last else f"{size} (epochs {first} to {last})"
            for (size, first), last in zip(sizes, ends, strict=True)
        ]
        return ", ".join(parts)


def plan_image_sizes(config: TrainConfig, full: int | None) -> SizeSchedule | None:
    """Return the sizes of the training images; None if all epochs have the size `full`.

    Raises:
        InvalidParameterError: progressive_resize is not below `full`.
    """
    if config.progressive_resize == OFF_TEXT or full is None:
        return None
    first = config.progressive_resize
    check_first_size(first, full)
    if first == ON_TEXT:
        first = find_half_size(full)
    schedule = SizeSchedule(int(first), full, config.epochs, count_frozen_epochs(config))
    has_small = schedule.num_uncounted_epochs > schedule.num_head_epochs
    return schedule if has_small and schedule.first < full else None


def count_uncounted_epochs(config: TrainConfig) -> int:
    """Return the number of first epochs that do not count for early stopping.

    These are the epochs of the last layer alone, and those before the full size.
    """
    num_head_epochs = count_frozen_epochs(config)
    if num_head_epochs == config.epochs:
        return 0
    if config.progressive_resize == OFF_TEXT:
        return num_head_epochs
    return config.epochs - _count_full_epochs(config.epochs - num_head_epochs)


def find_half_size(full: int) -> int:
    """Return half of `full`, rounded up to a multiple of `find_size_step`, and at least 64."""
    step = find_size_step(full)
    return max(-(-full // (2 * step)) * step, _MIN_HALF)


def find_size_step(full: int) -> int:
    """Return the distance between sizes below `full`: a power of two, at most 32 pixels."""
    step = _LARGEST_STEP
    while step > 1 and step * _MIN_STEPS > full:
        step //= 2
    return step


def _count_full_epochs(num_epochs: int) -> int:
    return math.ceil(num_epochs * _FULL_SHARE)
