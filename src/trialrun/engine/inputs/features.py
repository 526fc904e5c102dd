"""Features of a frozen backbone, computed once, so that only the last layer runs in training.

This needs inputs that are not random, and a last layer whose output is the network's output.
Otherwise every image runs through the whole network in every epoch. Tensor letters: N images,
F features.
"""

from collections.abc import Iterator, Sequence
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
from trialrun.engine.inputs.data import InputTransform, TrainingData
from trialrun.engine.inputs.resized import resize_dataset
from trialrun.engine.memory.release import find_fitting_result

_MAX_TABLE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class _FeatureTable:
    """(N, F) float32 features that are read by row, as an `ImageSource`."""

    values: Tensor

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (len(rows), F), the features at `rows` in that order."""
        return self.values[torch.from_numpy(rows)]


@dataclass(frozen=True, slots=True)
class _IdentityPreprocessing:
    """An `InputTransform` for features, which are inputs already."""

    image_size: None = None

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return the features unchanged."""
        return pixels

    def fit_stored(self, pixels: Tensor, _aspects: Sequence[float]) -> Tensor:
        """Return the features unchanged."""
        return pixels


def use_features(
    network: nn.Module,
    head_prefix: str,
    data: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
) -> tuple[nn.Module, TrainingData]:
    """Return the last layer and features as its data; `network` and `data` if this is impossible.

    It also returns `network` and `data` if the features would take more than 2 GiB.
    """
    head = network.get_submodule(head_prefix.removesuffix("."))
    is_random = config.augment != "none" or data.train_steps or config.mixup or config.cutmix
    if is_random or config.ema or not isinstance(head, nn.Linear):
        return network, data
    num_images = len(data.train) + len(data.valid)
    if num_images * head.in_features * 4 > _MAX_TABLE_BYTES:
        return network, data
    if not _ends_with_layer(network, head, data, compute):
        return network, data
    train, valid = (
        replace(
            images,
            source=_build_table(network, head, images, data.preprocessing, config, compute),
            rows=np.arange(len(images)),
            sharding=None,
        )
        for images in (data.train, data.valid)
    )
    return head, TrainingData(train, valid, data.num_classes, _IdentityPreprocessing())


def _ends_with_layer(
    network: nn.Module, head: nn.Linear, data: TrainingData, compute: ComputeConfig
) -> bool:
    """Whether the network's output is its last layer's output, tested on one image."""
    network.eval()
    with _capture_inputs(head) as captured, torch.inference_mode():
        first = next(sequential_batches(data.valid, 1))
        output = compute_logits(network, first.pixels, data.preprocessing, compute)
        with compute.autocast():
            return torch.equal(head(captured[0].to(compute.device)), output)


def compute_features(
    network: nn.Module,
    head: nn.Linear,
    data: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
) -> Tensor | None:
    """Return (N, F) features of the training images as inference sees them, on the CPU.

    Returns None if they would take more than 2 GiB.
    """
    if len(data.train) * head.in_features * 4 > _MAX_TABLE_BYTES:
        return None
    images = resize_dataset(data.train, data.preprocessing)
    return _build_table(network, head, images, data.preprocessing, config, compute).values


def _build_table(
    network: nn.Module,
    head: nn.Linear,
    images: ImageDataset,
    preprocessing: InputTransform,
    config: TrainConfig,
    compute: ComputeConfig,
) -> _FeatureTable:
    network.eval()

    def compute_features(batch_size: int) -> Tensor:
        with _capture_inputs(head) as captured, torch.inference_mode():
            for batch in sequential_batches(images, batch_size):
                compute_logits(network, batch.pixels, preprocessing, compute)
        return torch.cat([features.float() for features in captured])

    values, _ = find_fitting_result(compute_features, 2 * config.batch_size)
    return _FeatureTable(values)


@contextmanager
def _capture_inputs(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of `layer` on the CPU, one tensor per call."""
    captured: list[Tensor] = []

    def capture(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.append(inputs[0].to("cpu", copy=True))

    handle = layer.register_forward_pre_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()
