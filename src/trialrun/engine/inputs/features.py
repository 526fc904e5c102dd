"""Features of a frozen backbone, computed once, so that only the last layer runs in training.

This needs inputs that are not random, and a network that returns the output of its last layer.
Otherwise every image runs through the whole network in every epoch. Tensor letters: N images,
F features.
"""

from collections.abc import Callable, Iterator, Sequence
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
# The batch size does not depend on the setting batch_size: it decides the last bits of features,
# which all trials of a search share. 32 images of 224 pixels on a CPU.
_BATCH_PIXELS, _MAX_BATCH_IMAGES = 32 * 224**2, 256
_GPU_FACTOR = 4

_Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _FeatureTable:
    """(N, F) features that are read by row, as an `ImageSource`."""

    values: _Table

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (len(rows), F), the features at `rows` in that order."""
        return torch.from_numpy(self.values[rows])


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
    values = _load_or_compute(network, head, data, config, compute)
    if values is None:
        return network, data
    bounds = (0, len(data.train), num_images)
    train, valid = (
        replace(
            images,
            source=_FeatureTable(values[first:last]),
            rows=np.arange(last - first),
            sharding=None,
        )
        for images, first, last in zip((data.train, data.valid), bounds, bounds[1:], strict=False)
    )
    return head, TrainingData(train, valid, data.num_classes, _IdentityPreprocessing())


def _load_or_compute(
    network: nn.Module,
    head: nn.Linear,
    data: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
) -> _Table | None:
    """Return the features of both sets; None if the network does more after its last layer."""

    def compute_both() -> _Table | None:
        if not _ends_with_layer(network, head, data, compute):
            return None
        return _compute_tables(network, head, (data.train, data.valid), data.preprocessing, compute)

    if data.features is None:
        return compute_both()
    return data.features.load_or_compute(describe_computation(data, config, compute), compute_both)


def describe_computation(data: TrainingData, config: TrainConfig, compute: ComputeConfig) -> str:
    """Return what decides the features besides images and layers."""
    size = data.preprocessing.image_size
    return f"{compute.precision} {compute.layout} tf32={config.tf32} {size}"


def _ends_with_layer(
    network: nn.Module, head: nn.Linear, data: TrainingData, compute: ComputeConfig
) -> bool:
    """Whether the network's output is its last layer's output, tested on one image."""
    network.eval()
    captured: list[Tensor] = []
    with _pass_inputs(head, captured.append), torch.inference_mode():
        first = next(sequential_batches(data.valid, 1))
        output = compute_logits(network, first.pixels, data.preprocessing, compute)
        with compute.autocast():
            return torch.equal(head(captured[0]), output)


def compute_features(
    network: nn.Module, head: nn.Linear, data: TrainingData, compute: ComputeConfig
) -> Tensor | None:
    """Return (N, F) features of the training images as inference sees them, on the CPU.

    Returns None if they would take more than 2 GiB.
    """
    if len(data.train) * head.in_features * 4 > _MAX_TABLE_BYTES:
        return None
    images = resize_dataset(data.train, data.preprocessing)
    return torch.from_numpy(_compute_tables(network, head, (images,), data.preprocessing, compute))


def _compute_tables(
    network: nn.Module,
    head: nn.Linear,
    sets: Sequence[ImageDataset],
    preprocessing: InputTransform,
    compute: ComputeConfig,
) -> _Table:
    """Return the (N, F) features of the images of all sets, one set after the other."""
    network.eval()
    table = np.empty((sum(map(len, sets)), head.in_features), dtype=np.float32)

    def fill_table(batch_size: int) -> None:
        num_done = 0

        def add_rows(features: Tensor) -> None:
            nonlocal num_done
            rows = features.float().cpu().numpy()
            table[num_done : num_done + len(rows)] = rows
            num_done += len(rows)

        with _pass_inputs(head, add_rows), torch.inference_mode():
            for images in sets:
                for batch in sequential_batches(images, batch_size):
                    compute_logits(network, batch.pixels, preprocessing, compute)

    find_fitting_result(fill_table, _choose_batch_size(preprocessing, compute))
    return table


def _choose_batch_size(preprocessing: InputTransform, compute: ComputeConfig) -> int:
    """Return the number of images that run through the backbone at once."""
    pixels = _BATCH_PIXELS * (1 if compute.device.type == "cpu" else _GPU_FACTOR)
    side = preprocessing.image_size or 1
    return max(1, min(pixels // side**2, _MAX_BATCH_IMAGES))


@contextmanager
def _pass_inputs(layer: nn.Module, receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `receive` with the inputs of each call of `layer`."""

    def capture(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        receive(inputs[0])

    handle = layer.register_forward_pre_hook(capture)
    try:
        yield
    finally:
        handle.remove()
