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
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.evaluate import compute_logits
from trialrun.engine.inputs.batches import ImageDataset, sequential_batches
from trialrun.engine.inputs.data import TrainingData

_MAX_TABLE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class _FeatureTable:
    """(N, F) float32, read by row as pixels are."""

    values: Tensor

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(len(rows), F), the features at `rows` in that order."""
        return self.values[torch.from_numpy(rows)]


@dataclass(frozen=True, slots=True)
class _IdentityPreprocessing:
    """Features are inputs already."""

    image_size: None = None

    def normalised(self, pixels: Tensor) -> Tensor:
        """The features themselves."""
        return pixels


def use_features(
    network: nn.Module,
    head_prefix: str,
    task: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
) -> tuple[nn.Module, TrainingData]:
    """The last layer and a task of features, or `network` and `task` where those cannot serve."""
    head = network.get_submodule(head_prefix.removesuffix("."))
    random = config.augment != "none" or task.train_steps or config.mixup or config.cutmix
    if random or config.ema or not isinstance(head, nn.Linear):
        return network, task
    num_images = len(task.train) + len(task.valid)
    if num_images * head.in_features * 4 > _MAX_TABLE_BYTES:
        return network, task
    if not _ends_with_layer(network, head, task, compute):
        return network, task
    train, valid = (
        replace(
            data,
            source=_build_table(network, head, data, task, config, compute),
            rows=np.arange(len(data)),
        )
        for data in (task.train, task.valid)
    )
    return head, TrainingData(train, valid, task.num_classes, _IdentityPreprocessing())


def _ends_with_layer(
    network: nn.Module, head: nn.Linear, task: TrainingData, compute: ComputeConfig
) -> bool:
    """Whether the network's output is its last layer's, tried on one image."""
    network.eval()
    with _capture_inputs(head) as seen, torch.inference_mode():
        first = next(sequential_batches(task.valid, 1))
        output = compute_logits(network, first.pixels, task.preprocessing, compute)
        with compute.autocast():
            return torch.equal(head(seen[0].to(compute.device)), output)


def _build_table(
    network: nn.Module,
    head: nn.Linear,
    data: ImageDataset,
    task: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
) -> _FeatureTable:
    network.eval()
    with _capture_inputs(head) as seen, torch.inference_mode():
        for batch in sequential_batches(data, 2 * config.batch_size):
            compute_logits(network, batch.pixels, task.preprocessing, compute)
    return _FeatureTable(torch.cat([features.float() for features in seen]))


@contextmanager
def _capture_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What `layer` is given, call by call, on the CPU."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].to("cpu", copy=True))

    handle = layer.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
