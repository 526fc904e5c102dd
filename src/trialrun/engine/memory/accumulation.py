"""Gradient accumulation: a batch is computed in parts, and their gradients are added up.

Tensor letters: N images in a part, C classes, S the image size.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.engine.compute.torch_errors import is_out_of_memory
from trialrun.engine.memory.release import clear_failed_frames, release_memory
from trialrun.engine.snapshot import capture_generators, restore_generators
from trialrun.engine.state import TrainState

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A part of a batch on the device.

    `inputs` are (N, 3, S, S) float32, or features; `targets` are (N,) class indices, or (N, C)
    probabilities of mixed images; `labels` are (N,) class indices.
    """

    inputs: Tensor
    targets: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, num_parts: int) -> list["BatchPart"]:
        """Return `num_parts` parts; their sizes differ by at most one image."""
        tensors = (self.inputs, self.targets, self.labels)
        pieces = (torch.tensor_split(tensor, num_parts) for tensor in tensors)
        return [BatchPart(*part) for part in zip(*pieces, strict=True)]


def find_smallest_part(state: TrainState) -> int:
    """Return the number of images that a part has at least: batch norm cannot train on one."""
    statistics = state.batch_norm_statistics
    return 2 if statistics is not None and statistics.has_layers else 1


def count_max_parts(num_images: int, state: TrainState) -> int:
    """Return the most parts that `num_images` images can be computed in."""
    return max(num_images // find_smallest_part(state), 1)


def count_part_images(config: TrainConfig, state: TrainState) -> int:
    """Return the number of images in the largest part of a full batch."""
    num_images = min(config.batch_size, len(state.data.train))
    return math.ceil(num_images / min(state.num_parts, count_max_parts(num_images, state)))


def sync_gradients(module: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Return the context of a part: several ranks add up their gradients in the last part only."""
    no_sync: Callable[[], AbstractContextManager[None]] | None = getattr(module, "no_sync", None)
    return nullcontext() if is_last or no_sync is None else no_sync()


def retry_in_more_parts(
    state: TrainState, config: TrainConfig, num_images: int, compute: Callable[[], Result]
) -> Result:
    """Call `compute`; with `accumulate_steps=auto`, repeat it in more parts if memory runs out.

    `compute` must change nothing but gradients, buffers and torch's generators. A repetition
    starts with those of the first call, so that its result does not depend on the failed one.
    """
    if config.accumulate_steps != AUTO_TEXT:
        return compute()
    max_parts = count_max_parts(num_images, state)
    generators = capture_generators(state.compute.device)
    buffers = [(buffer, buffer.clone()) for buffer in state.network.buffers()]
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or state.num_parts >= max_parts:
                raise
            clear_failed_frames(error)
        # After the except block, which refers to the error.
        state.num_parts = min(2 * state.num_parts, max_parts)
        state.optimizer.zero_grad()
        release_memory()
        restore_buffers(buffers)
        restore_generators(generators, state.compute.device)


def count_valid_images(config: TrainConfig, state: TrainState) -> int:
    """Return the number of images in a batch of validation; less if training has parts."""
    if state.num_parts == 1:
        return state.valid_batch_size
    return min(state.valid_batch_size, 2 * count_part_images(config, state))


@torch.no_grad()
def restore_buffers(buffers: list[tuple[Tensor, Tensor]]) -> None:
    """Overwrite the first tensor of each pair with the second."""
    for buffer, value in buffers:
        buffer.copy_(value)
