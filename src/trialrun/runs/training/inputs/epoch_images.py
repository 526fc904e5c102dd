"""Pictures of a training by epoch, which MLflow's image grid shows.

They are drawn from the predictions that validation has just made, and from images that are read
again; no random numbers are drawn that training could miss. The grid opens at step 0, which has
the best epoch's pictures at the end, and the training images without augmentation.
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
from trialrun.engine.inputs.resized import resize_dataset
from trialrun.images.dataset import make_printable
from trialrun.report.document import find_worst_mistakes
from trialrun.report.figures.heat_map import draw_heat_map
from trialrun.report.figures.tiles import Tile, TileLayout, arrange_tiles
from trialrun.report.predictions import Predictions
from trialrun.runs.training.inputs.data import PreparedData, PreparedSet
from trialrun.runs.training.logging import SUMMARY_STEP, build_valid_predictions
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.resumption.progress import BestEpoch
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
    samples = _draw_samples(plan, data, epoch, status.result.train_image_size)
    pictures = [*_draw_predictions(plan, data.valid, status), *samples]
    for key, picture in pictures:
        log_image(run, picture, key=key, step=epoch, timestamp_ms=timestamp_ms)
    if epoch == 1 and data.train.dataset.sharding is None:
        picture = draw_samples(plan, data, None)
        log_image(run, picture, key=SAMPLES, step=SUMMARY_STEP, timestamp_ms=timestamp_ms)


def log_best_images(run: TrackedRun, plan: TrainPlan, valid: PreparedSet, best: BestEpoch) -> None:
    """Store the pictures of the best epoch's predictions again, where the image grid opens."""
    for key, picture in _draw_predictions(plan, valid, best.status):
        log_image(run, picture, key=key, step=SUMMARY_STEP, timestamp_ms=best.timestamp_ms)


def has_pictures(epoch: int, num_epochs: int) -> bool:
    """Whether pictures are drawn after `epoch`, the first of `num_epochs` being 1.

    Of more than 20 epochs, every k-th one has pictures, and the first and the last one.
    """
    interval = -(-num_epochs // _MAX_PICTURES)
    return epoch in (1, num_epochs) or epoch % interval == 0


def _draw_predictions(
    plan: TrainPlan, valid: PreparedSet, status: EpochStatus
) -> Iterator[tuple[str, Image.Image]]:
    """Yield keys and pictures; images in shards may be far away, and are not read again."""
    predictions = build_valid_predictions(status, plan, valid)
    yield CONFUSION, draw_heat_map(predictions)
    worst = find_worst_mistakes(predictions, _NUM_MISTAKES)
    if worst and valid.dataset.sharding is None:
        pixels = valid.dataset.source.pixels(valid.dataset.rows[worst])
        lines = [_describe_mistake(predictions, position) for position in worst]
        yield MISTAKES, _arrange(pixels, lines)


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


def _draw_samples(
    plan: TrainPlan, data: PreparedData, epoch: int, size: int | None
) -> Iterator[tuple[str, Image.Image]]:
    """Yield key and picture, if the images are augmented and not in shards."""
    if data.train.dataset.sharding is None and is_augmented(plan.config, data):
        yield SAMPLES, draw_samples(plan, data, epoch, size)


def draw_samples(
    plan: TrainPlan, data: PreparedData, epoch: int | None, size: int | None = None
) -> Image.Image:
    """Return a picture of 16 training images as the network gets them in `epoch`, `size` pixels.

    They are the same images in every epoch. MixUp and CutMix are not applied. Without an epoch they
    are not augmented.
    """
    train = data.train.dataset
    positions = choose_samples(len(train))
    names = [(make_printable(plan.classes[label]),) for label in train.labels[positions]]
    if epoch is not None:
        return _arrange(augment_samples(plan.config, data, positions, epoch, size), names)
    resized = resize_dataset(train, data.preprocessing)
    return _arrange(resized.source.pixels(train.rows[positions]), names)


def choose_samples(num_images: int) -> NDArray[np.int64]:
    """Return evenly spaced positions: sets are mostly sorted by class."""
    return np.unique(np.linspace(0, num_images - 1, _NUM_SAMPLES).astype(np.int64))


def augment_samples(
    config: TrainConfig,
    data: PreparedData,
    positions: NDArray[np.int64],
    epoch: int,
    size: int | None = None,
) -> Tensor:
    """Return (N, 3, S, S) uint8, augmented as in `epoch`: that depends on seed and image alone.

    `size` is S; None is the full size.
    """
    batch = data.train.dataset.load_batch(positions, len(positions))
    with torch.no_grad():
        return augment_batch(
            batch.pixels,
            positions,
            augment=config.augment,
            epoch=epoch,
            random_seed=config.random_seed,
            size=size or data.preprocessing.image_size,
            full_size=data.preprocessing.image_size,
            steps=data.train_transforms,
            aspects=batch.aspects,
        )


def _arrange(pixels: Tensor, lines: Sequence[Sequence[str]]) -> Image.Image:
    arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    tiles = [Tile(Image.fromarray(array), text) for array, text in zip(arrays, lines, strict=True)]
    return arrange_tiles(tiles, _LAYOUT)
