"""A plan's image sets as pixels: surveyed, decoded once, and what could not be decoded left out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trialrun.config import AUTO_TEXT
from trialrun.config.folders import cache_folder
from trialrun.engine.batches import LabelledPixels
from trialrun.images import ImageSet, label_indices
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.survey import Survey, auto_image_size, survey
from trialrun.packing import Pack, Skipped, open_pack, skipped_images, usable_subset
from trialrun.runs.observer import Observer
from trialrun.runs.plan import TrainPlan


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """One set, decoded: its files, why each was skipped if it was, what is learned from."""

    surveyed: Survey
    reasons: tuple[str, ...]
    pixels: LabelledPixels

    @property
    def skipped(self) -> list[Skipped]:
        """The images that were left out."""
        return skipped_images(self.surveyed.images, self.reasons)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Both sets and the preprocessing that they share."""

    preprocessing: Preprocessing
    train: PreparedSet
    valid: PreparedSet


def num_threads() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare(plan: TrainPlan, observer: Observer) -> PreparedData:
    """Survey and decode both sets.

    Raises:
        InvalidDatasetError: Too many images cannot be read, or a class has none left.
        StorageError: The cache folder cannot be written.
    """
    surveys = [survey(images, threads=num_threads()) for images in (plan.train, plan.valid)]
    asked = plan.config.image_size
    size = auto_image_size(surveys) if asked == AUTO_TEXT else int(asked)
    preprocessing = Preprocessing(size)
    train, valid = (_prepared(surveyed, preprocessing, plan, observer) for surveyed in surveys)
    return PreparedData(preprocessing, train, valid)


def _prepared(
    surveyed: Survey, preprocessing: Preprocessing, plan: TrainPlan, observer: Observer
) -> PreparedSet:
    for note in surveyed.images.notes:
        observer.note(f"{surveyed.images.source}: {note}")
    observer.decoding(len(surveyed.images))
    pack = open_pack(
        surveyed,
        preprocessing,
        cache_folder() / "packs",
        threads=num_threads(),
        progress=observer.decoded,
    )
    usable = usable_subset(surveyed.images, pack, strict=plan.config.strict)
    prepared = PreparedSet(surveyed, pack.reasons, _labelled(pack, usable, plan.classes))
    for each in prepared.skipped:
        observer.note(f"skipped {each.name}: {each.reason}")
    return prepared


def _labelled(pack: Pack, usable: ImageSet, classes: Iterable[str]) -> LabelledPixels:
    labels = label_indices(usable.items, tuple(classes))
    rows = np.asarray(pack.usable(), dtype=np.int64)
    return LabelledPixels(pack, rows, np.asarray(labels, dtype=np.int64))
