"""The plan of a smoke test: one epoch on two batches of each set."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import read_ranks
from trialrun.images import ImageSet
from trialrun.images.items import encode_labels

if TYPE_CHECKING:
    from trialrun.runs.training.plan import TrainPlan

SMOKE_TAG = "smoke_test"

_NUM_BATCHES = 2
_VALID_FACTOR = 2  # a batch of validation is this many times larger than one of training
_LEARNING_RATE = 0.001  # in place of the 60 steps of learning_rate=auto


def reduce_plan(plan: "TrainPlan") -> "TrainPlan":
    """Return a plan of one epoch on two batches of each set; the network knows all classes."""
    num_images = _NUM_BATCHES * plan.config.batch_size * read_ranks(os.environ).world_size
    return replace(
        plan,
        config=_shorten(plan.config),
        train=_select_images(plan.train, num_images),
        valid=_select_images(plan.valid, _VALID_FACTOR * num_images),
        class_names=plan.classes,
    )


def _shorten(config: TrainConfig) -> TrainConfig:
    """Return the settings with one epoch, in which all layers train unless `freeze` says no."""
    return replace(
        config,
        epochs=1,
        warmup_steps=0,
        warmup_epochs=0.0,
        warmup_fraction=0.0,
        freeze_epochs=0,
        learning_rate=_LEARNING_RATE if config.learning_rate == AUTO_TEXT else config.learning_rate,
        run_name=f"smoke test {config.run_name or ''}".strip()[:250],
    )


def make_smoke_tags(config: TrainConfig) -> dict[str, str]:
    """Return the tag that tells a smoke test from a result; none for other runs."""
    return {SMOKE_TAG: "true"} if config.smoke else {}


def _select_images(images: ImageSet, num_images: int) -> ImageSet:
    """Return `num_images` of a set: the first of each class, then the second ones, and so on."""
    codes = encode_labels(images.items).codes
    by_class = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_class], codes[by_class])
    places = np.empty(len(codes), dtype=np.int64)  # of each image among those of its class
    places[by_class] = np.arange(len(codes)) - starts
    chosen = np.lexsort((codes, places))[:num_images]
    return images.subset(np.sort(chosen))
