"""Pictures of a training by epoch, which MLflow's image grid shows.

They are drawn from the predictions that validation has just made, and from images that are read
again; no random numbers are drawn that training could miss.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trialrun.config import NONE_TEXT, TrainConfig
from trialrun.engine.early_stopping import EpochStatus
from trialrun.engine.inputs.augment import augment_batch
from trialrun.images.dataset import make_printable
from trialrun.report.document import find_worst_mistakes
from trialrun.report.figures.heat_map import draw_heat_map
from trialrun.report.figures.tiles import Tile, TileLayout, arrange_tiles
from trialrun.report.predictions import Predictions
from trialrun.runs.training.data import PreparedData
from trialrun.runs.training.logging import build_valid_predictions
from trialrun.runs.training.plan import TrainPlan
from trialrun.tracking import TrackedRun, log_image

CONFUSION, MISTAKES, SAMPLES = "confusion_matrix", "worst_mistakes", "augmented_samples"

_MAX_PICTURES = 20  # of a key in a run, apart from those of the first and the last epoch
_NUM_MISTAKES, _NUM_SAMPLES = 12, 16
_LAYOUT = TileLayout(columns=4, side=112, gap=8, font_size=12, line=15)


def log_epoch_images(
    run: TrackedRun, plan: TrainPlan, data: PreparedData, status: EpochStatus, timestamp_ms: int
) -> None:
    """Store the pictures of an epoch if it has any; `timestamp_ms` is that of its metrics."""
    epoch = status.result.epoch
    if not has_pictures(epoch, plan.config.epochs):
        return
    for key, picture in _draw_pictures(plan, data, status):
        log_image(run, picture, key=key, step=epoch, timestamp_ms=timestamp_ms)


def has_pictures(epoch: int, num_epochs: int) -> bool:
    """Whether pictures are drawn after `epoch`, the first of `num_epochs` being 1.

    Of more than 20 epochs, every k-th one has pictures, and the first and the last one.
    """
    interval = -(-num_epochs // _MAX_PICTURES)
    return epoch in (1, num_epochs) or epoch % interval == 0


def _draw_pictures(
    plan: TrainPlan, data: PreparedData, status: EpochStatus
) -> Iterator[tuple[str, Image.Image]]:
    """Yield keys and pictures; images in shards may be far away, and are not read again."""
    epoch, valid, train = status.result.epoch, data.valid.dataset, data.train.dataset
    predictions = build_valid_predictions(status, plan, data.valid)
    yield CONFUSION, draw_heat_map(predictions)
    worst = find_worst_mistakes(predictions, _NUM_MISTAKES)
    if worst and valid.sharding is None:
        pixels = valid.source.pixels(valid.rows[worst])
        lines = [_describe_mistake(predictions, position) for position in worst]
        yield MISTAKES, _arrange(pixels, lines)
    if train.sharding is None and (epoch == 1 or is_augmented(plan.config, data)):
        yield SAMPLES, draw_samples(plan, data, epoch)


def _describe_mistake(predictions: Predictions, position: int) -> tuple[str, str]:
    classes, confidence = predictions.classes, predictions.confidence
    assert confidence is not None
    label, predicted = predictions.labels[position], predictions.predicted[position]
    return (
        make_printable(classes[label]),
        f"\u2192 {confidence[position]:.0%} {make_printable(classes[predicted])}",
    )


def is_augmented(config: TrainConfig, data: PreparedData) -> bool:
    """Whether the training images of two epochs differ."""
    return config.augment != NONE_TEXT or bool(data.train_transforms)


def draw_samples(plan: TrainPlan, data: PreparedData, epoch: int) -> Image.Image:
    """Return a picture of 16 training images as the network gets them in `epoch`.

    They are the same images in every epoch. MixUp and CutMix are not applied.
    """
    positions = choose_samples(len(data.train.dataset))
    names = [
        (make_printable(plan.classes[label]),) for label in data.train.dataset.labels[positions]
    ]
    return _arrange(augment_samples(plan.config, data, positions, epoch), names)


def choose_samples(num_images: int) -> NDArray[np.int64]:
    """Return evenly spaced positions: sets are mostly sorted by class."""
    return np.unique(np.linspace(0, num_images - 1, _NUM_SAMPLES).astype(np.int64))


def augment_samples(
    config: TrainConfig, data: PreparedData, positions: NDArray[np.int64], epoch: int
) -> Tensor:
    """Return (N, 3, S, S) uint8, augmented as in `epoch`: that depends on seed and image alone."""
    batch = data.train.dataset.load_batch(positions, len(positions))
    with torch.no_grad():
        return augment_batch(
            batch.pixels,
            positions,
            augment=config.augment,
            epoch=epoch,
            random_seed=config.random_seed,
            size=data.preprocessing.image_size,
            steps=data.train_transforms,
            aspects=batch.aspects,
        )


def _arrange(pixels: Tensor, lines: Sequence[Sequence[str]]) -> Image.Image:
    arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    tiles = [Tile(Image.fromarray(array), text) for array, text in zip(arrays, lines, strict=True)]
    return arrange_tiles(tiles, _LAYOUT)
