"""A plan's image sets as pixels: surveyed, decoded once, and what could not be decoded left out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trialrun.cache.location import cache_limit_bytes, decoded_folder
from trialrun.config import AUTO_TEXT
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.errors import InvalidParameterError
from trialrun.image_cache import DecodedImages, SkippedImage, list_skipped, open_pack, select_usable
from trialrun.image_cache.inventory import list_evictable_archives
from trialrun.images import ImageSet, label_indices, make_printable
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.decoding.transforms import (
    MAX_SIDE,
    TransformStep,
    compute_side_after,
    select_fixed_steps,
    split_at_random_step,
)
from trialrun.images.scanning.scan import WARNED, DatasetScan, choose_image_size, classify_image
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.models.initial import ExpectedInput
from trialrun.runs.callbacks import DECODING, RunCallback
from trialrun.runs.datasets.leakage import LeakageReport, find_leakage
from trialrun.runs.datasets.scan import scan_set
from trialrun.runs.training.initial import describe_initial, find_likely_mistakes
from trialrun.runs.training.plan import TrainPlan

_TRAIN_MARGIN = 8 / 7  # 256 for 224, as torchvision's recipes have it


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """One set, decoded: its files, why each was skipped if it was, what is learned from."""

    scan: DatasetScan
    decoded: DecodedImages
    pixels: ImageDataset

    @property
    def reasons(self) -> tuple[str, ...]:
        """One an image, empty where it is used."""
        return self.decoded.reasons

    @property
    def skipped(self) -> list[SkippedImage]:
        """The images that were left out."""
        return list_skipped(self.scan.images, self.reasons)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Both sets, the preprocessing that inference does, and what training does besides."""

    preprocessing: Preprocessing
    train: PreparedSet
    valid: PreparedSet
    findings: LeakageReport
    train_steps: tuple[TransformStep, ...] = ()

    @property
    def num_decoded(self) -> int:
        """Images that were decoded for it; 0 where both packs were found."""
        return self.train.decoded.num_decoded + self.valid.decoded.num_decoded


def prepare_data(plan: TrainPlan, callback: RunCallback) -> PreparedData:
    """Survey and decode both sets, and look for what is in both and for settings to doubt.

    Raises:
        InvalidModelDirectoryError: What describes the model cannot be read.
        InvalidParameterError: The initial weights are of another image size.
        InvalidDatasetError: Too many images cannot be read, or a class has none left.
        StorageError: The cache folder cannot be written.
    """
    initial = describe_initial(plan)
    for text in find_likely_mistakes(plan.config, initial):
        callback.note(text)
    scans = [scan_set(images, callback) for images in (plan.train, plan.valid)]
    expected = initial.expected_input
    size = _choose_image_size(plan, scans, expected)
    preprocessing = Preprocessing(size, expected.mean, expected.std, select_fixed_steps(plan.steps))
    stored, train_steps = _plan_storage(plan, preprocessing)
    train = _prepare_set(scans[0], stored, plan, callback)
    valid = _prepare_set(scans[1], preprocessing, plan, callback)
    findings = find_leakage(scans, [train.decoded, valid.decoded])
    for note in findings.notes():
        callback.note(note)
    return PreparedData(preprocessing, train, valid, findings, train_steps)


def _choose_image_size(
    plan: TrainPlan, scans: Sequence[DatasetScan], expected: ExpectedInput
) -> int:
    if plan.config.image_size != AUTO_TEXT:
        size = int(plan.config.image_size)
    elif listed := compute_side_after(select_fixed_steps(plan.steps)) or compute_side_after(
        plan.steps
    ):
        size = listed
    else:
        return expected.choose_size(choose_image_size(scans, max_size=expected.weights_size))
    if (required := expected.required_size) not in (None, size):
        raise InvalidParameterError(
            f"{plan.config.model}'s initial weights take images of {required} pixels, not {size}",
            f"Set image_size={required}.",
        )
    return size


def _plan_storage(
    plan: TrainPlan, preprocessing: Preprocessing
) -> tuple[Preprocessing, tuple[TransformStep, ...]]:
    """How training images are kept, and which steps are left to be drawn for every epoch.

    What crops at random is given an eighth more than it needs, so that it does not enlarge.
    """
    assert preprocessing.image_size is not None
    with_margin = round(preprocessing.image_size * _TRAIN_MARGIN)
    if not plan.steps:
        crops = plan.config.augment in ("standard", "strong")
        return (replace(preprocessing, image_size=with_margin) if crops else preprocessing), ()
    kept, drawn = split_at_random_step(plan.steps)
    if not drawn:
        return preprocessing, ()
    crops = any(step.name in ("RandomResizedCrop", "RandomCrop") for step in drawn)
    side = compute_side_after(kept) or (with_margin if crops else preprocessing.image_size)
    return replace(preprocessing, image_size=min(side, MAX_SIDE), steps=kept), drawn


def _prepare_set(
    scan: DatasetScan, preprocessing: Preprocessing, plan: TrainPlan, callback: RunCallback
) -> PreparedSet:
    for note in scan.images.notes:
        callback.note(f"{scan.images.source}: {note}")
    callback.scanning(DECODING, len(scan.images))
    decoded = open_pack(
        scan,
        preprocessing,
        decoded_folder(),
        threads=count_threads(),
        limit_bytes=cache_limit_bytes(),
        progress=callback.scanned,
        note=callback.note,
        other_entries=list_evictable_archives,
    )
    usable = select_usable(scan.images, decoded.reasons, strict=plan.config.strict)
    prepared = PreparedSet(scan, decoded, _build_dataset(decoded, usable, plan.classes))
    _report_set(prepared, callback)
    return prepared


def _report_set(prepared: PreparedSet, callback: RunCallback) -> None:
    """Name what was skipped, and count what is odd: the manifest names the latter."""
    for each in prepared.skipped:
        callback.note(f"skipped {each.name}: {each.reason}")
    scan = prepared.scan
    odd = [
        f"{make_printable(item.name)} {seen.warning}"
        for item, seen, reason in zip(scan.images.items, scan.files, prepared.reasons, strict=True)
        if classify_image(seen, reason) == WARNED
    ]
    if odd:
        callback.note(f"{len(odd)} images in {scan.images.source} are odd, such as {odd[0]}")


def _build_dataset(pack: DecodedImages, usable: ImageSet, classes: Iterable[str]) -> ImageDataset:
    labels = label_indices(usable.items, tuple(classes))
    rows = np.asarray(pack.usable_rows(), dtype=np.int64)
    return ImageDataset(pack, rows, np.asarray(labels, dtype=np.int64))
