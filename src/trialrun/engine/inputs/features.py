"""A frozen backbone's outputs, computed once: the last layer then learns from a table.

That holds only where nothing random comes before the last layer, and where the last layer is the
last thing the network does; where it does not hold, every image runs through the network each time.
Tensor letters: N images, F features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trialrun.config import TrainConfig
from trialrun.engine.compute.precision import Arithmetic
from trialrun.engine.evaluate import logits_of
from trialrun.engine.inputs.batches import LabelledPixels, ordered_batches
from trialrun.engine.inputs.data import Task

_MAX_TABLE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """(N, F) float32, read by row as pixels are."""

    values: Tensor

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), F), the features at `rows` in that order."""
        return self.values[torch.from_numpy(rows)]


@dataclass(frozen=True, slots=True)
class AsTheyAre:
    """Features are inputs already."""

    image_size: None = None

    def normalised(self, pixels: Tensor) -> Tensor:
        """The features themselves."""
        return pixels


def with_features(
    network: nn.Module, head_prefix: str, task: Task, config: TrainConfig, math: Arithmetic
) -> tuple[nn.Module, Task]:
    """The last layer and a task of features, or `network` and `task` where those cannot serve."""
    head = network.get_submodule(head_prefix.removesuffix("."))
    random = config.augment != "none" or task.train_steps or config.mixup or config.cutmix
    if random or config.ema or not isinstance(head, nn.Linear):
        return network, task
    num_images = len(task.train) + len(task.valid)
    if num_images * head.in_features * 4 > _MAX_TABLE_BYTES:
        return network, task
    if not _ends_with(network, head, task, math):
        return network, task
    train, valid = (
        replace(
            data, source=_table(network, head, data, task, config, math), rows=np.arange(len(data))
        )
        for data in (task.train, task.valid)
    )
    return head, Task(train, valid, task.num_classes, AsTheyAre())


def _ends_with(network: nn.Module, head: nn.Linear, task: Task, math: Arithmetic) -> bool:
    """Whether the network's output is its last layer's, tried on one image."""
    network.eval()
    with _inputs_of(head) as seen, torch.inference_mode():
        first = next(ordered_batches(task.valid, 1))
        output = logits_of(network, first.pixels, task.preprocessing, math)
        with math.autocast():
            return torch.equal(head(seen[0].to(math.device)), output)


def _table(
    network: nn.Module,
    head: nn.Linear,
    data: LabelledPixels,
    task: Task,
    config: TrainConfig,
    math: Arithmetic,
) -> FeatureTable:
    network.eval()
    with _inputs_of(head) as seen, torch.inference_mode():
        for batch in ordered_batches(data, 2 * config.batch_size):
            logits_of(network, batch.pixels, task.preprocessing, math)
    return FeatureTable(torch.cat([features.float() for features in seen]))


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What `layer` is given, call by call, on the CPU."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].to("cpu", copy=True))

    handle = layer.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
