"""Prepares the image sets of a plan: scans and decodes them and skips unreadable images."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trialrun.config import AUTO_TEXT
from trialrun.config.train_checks import check_first_size
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.errors import InvalidParameterError
from trialrun.image_cache import DecodedImages, SkippedImage, list_skipped, select_usable
from trialrun.images import ImageSet, label_indices, make_printable
from trialrun.images.decoding.fitting import CROP, SQUASH
from trialrun.images.decoding.gray_values import ValueRange
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.decoding.transforms import (
    MAX_SIDE,
    TransformStep,
    compute_side_after,
    select_fixed_steps,
    split_at_random_step,
)
from trialrun.images.scanning.scan import WARNED, DatasetScan, choose_image_size, classify_image
from trialrun.images.scanning.value_range import measure_range, sample_gray_values
from trialrun.models.weights.initial import ExpectedInput, describe_initial_weights
from trialrun.models.weights.published import has_default_weights
from trialrun.models.zoo.names import DEFAULT_WEIGHTS
from trialrun.runs.callbacks import DECODING, RunCallback
from trialrun.runs.datasets.leakage import LeakageReport, find_leakage
from trialrun.runs.datasets.pixel_notes import find_pixel_notes
from trialrun.runs.datasets.scan import scan_set
from trialrun.runs.training.initial import (
    ResolvedWeights,
    describe_initial,
    fetch_or_warn,
    find_likely_mistakes,
    name_weights,
    read_weights_setting,
    resolve_model,
)
from trialrun.runs.training.inputs.backbones import BackboneMemory
from trialrun.runs.training.inputs.data_mode import (
    STREAM,
    describe_stream,
    find_uniform_shards,
    open_decoded,
    order_by_shards,
    resolve_mode,
)
from trialrun.runs.training.plan import TrainPlan
from trialrun.tracking import truncate_digest

FetchWeights = Callable[[str, Callable[[str], None]], bool]  # as `fetch_or_warn`

_MIN_PRETRAINED_SIZE = 96  # the smallest image size at which weights=auto is torchvision's weights
_TRAIN_MARGIN = 8 / 7  # 256 pixels for 224, as in torchvision's training recipes
_STORED_RATIOS = (1, 4 / 3, 16 / 9)  # of the longer to the shorter side


@dataclass(frozen=True, slots=True)
class PreparedSet:
    """The scan of one set, all its decoded images, and the dataset of the usable ones."""

    scan: DatasetScan
    decoded: DecodedImages
    dataset: ImageDataset

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each image is skipped, in the set's order; empty text for a usable image."""
        return self.decoded.reasons

    @property
    def skipped(self) -> list[SkippedImage]:
        """The images that are not used."""
        return list_skipped(self.scan.images, self.reasons)

    def hash_images(self) -> str:
        """Hash names, labels, bytes and which images are usable."""
        used = hashlib.sha256(self.dataset.rows.tobytes() + self.dataset.labels.tobytes())
        return f"{truncate_digest(self.scan)} {used.hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Both sets, the preprocessing of inference, and the transforms that only training applies.

    `train_transforms` are applied anew in every epoch. `weights` are the initial weights, for which
    the images are prepared. `backbones` keeps what the next training with a frozen one can use.
    """

    preprocessing: Preprocessing
    train: PreparedSet
    valid: PreparedSet
    leakage: LeakageReport
    weights: ResolvedWeights
    train_transforms: tuple[TransformStep, ...] = ()
    backbones: BackboneMemory = field(default_factory=BackboneMemory)

    @property
    def num_decoded(self) -> int:
        """The number of images decoded by this call; 0 if both sets were in the cache."""
        return self.train.decoded.num_decoded + self.valid.decoded.num_decoded


def prepare_data(
    plan: TrainPlan,
    callback: RunCallback,
    ranks: Ranks = SINGLE_PROCESS,
    fetch: FetchWeights = fetch_or_warn,
) -> PreparedData:
    """Scan and decode both sets, and report likely mistakes, skipped images and leakage.

    `fetch` is called on rank 0 if weights=auto may use torchvision's weights.

    Raises:
        InvalidModelDirectoryError: The description of the model cannot be read.
        InvalidParameterError: The initial weights need another image size, or progressive_resize is
            not below it.
        InvalidDatasetError: Too many images cannot be read, or a class has no usable image.
        StorageError: The cache folder cannot be written.
    """
    scans = [scan_set(images, callback) for images in (plan.train, plan.valid)]
    weights = name_weights(plan, _find_weights(plan, scans, ranks, fetch, callback.on_note))
    initial = describe_initial(plan, weights)
    for text in find_likely_mistakes(plan.config, initial):
        callback.on_note(text)
    preprocessing = _build_preprocessing(plan, scans, initial.expected_input)
    check_first_size(plan.config.progressive_resize, preprocessing.image_size)
    if plan.config.value_range == AUTO_TEXT and preprocessing.value_range is None:
        callback.on_note(f"value_range={AUTO_TEXT}: no training image has more than 8 bits")
    stored, train_transforms = _plan_storage(plan, preprocessing, scans[0])
    train, valid = _prepare_sets(scans, (stored, preprocessing), plan, callback)
    if stored.fit == SQUASH != preprocessing.fit:
        train = replace(train, dataset=replace(train.dataset, aspects=train.decoded.aspects))
    for prepared in (train,) if plan.config.valid_data is None else (train, valid):
        _note_lost_pixels(prepared, preprocessing, callback)
    leakage = find_leakage(scans, [train.decoded, valid.decoded])
    for note in leakage.notes():
        callback.on_note(note)
    return PreparedData(preprocessing, train, valid, leakage, weights, train_transforms)


def _find_weights(
    plan: TrainPlan,
    scans: Sequence[DatasetScan],
    ranks: Ranks,
    fetch: FetchWeights,
    note: Callable[[str], None],
) -> str | None:
    """Return the source of the initial weights, as in `ResolvedWeights`; rank 0 resolves `auto`."""
    if plan.config.weights != AUTO_TEXT:
        return read_weights_setting(plan)
    return ranks.broadcast_object(
        _resolve_auto(plan, scans, fetch, note) if ranks.is_first else None
    )


def _resolve_auto(
    plan: TrainPlan, scans: Sequence[DatasetScan], fetch: FetchWeights, note: Callable[[str], None]
) -> str | None:
    """Return `default` for images of at least 96 pixels if the weights can be had, else None."""
    setting = read_weights_setting(plan)
    if setting != AUTO_TEXT:
        return setting
    model = resolve_model(plan)
    random = describe_initial_weights(model, None).expected_input
    is_small = _choose_image_size(plan, scans, random) < _MIN_PRETRAINED_SIZE
    if is_small or not has_default_weights(model):
        return None
    pretrained = describe_initial_weights(model, DEFAULT_WEIGHTS).expected_input
    try:
        _choose_image_size(plan, scans, pretrained)
    except InvalidParameterError as error:
        note(f"weights={AUTO_TEXT}: training starts from random weights, because {error}")
        return None
    return DEFAULT_WEIGHTS if fetch(model, note) else None


def _build_preprocessing(
    plan: TrainPlan, scans: Sequence[DatasetScan], expected: ExpectedInput
) -> Preprocessing:
    """Return the preprocessing of inference; transforms replace the crop of the weights."""
    fit = expected.fit if plan.config.fit == AUTO_TEXT else plan.config.fit
    is_own = fit == CROP or plan.config.fit == AUTO_TEXT
    return Preprocessing(
        _choose_image_size(plan, scans, expected),
        expected.mean,
        expected.std,
        select_fixed_steps(plan.transforms),
        expected.crop_fraction if is_own and not plan.transforms else 1.0,
        expected.interpolation,
        fit,
        _choose_value_range(plan, scans[0], expected),
    )


def _choose_value_range(
    plan: TrainPlan, train: DatasetScan, expected: ExpectedInput
) -> ValueRange | None:
    if plan.config.value_range == AUTO_TEXT:
        return measure_range(sample_gray_values(train))
    return plan.config.parse_value_range() or expected.value_range


def _choose_image_size(
    plan: TrainPlan, scans: Sequence[DatasetScan], expected: ExpectedInput
) -> int:
    """Return the setting, else what the transforms produce, else what suits weights and images."""
    if plan.config.image_size != AUTO_TEXT:
        size = int(plan.config.image_size)
    elif transformed := compute_side_after(
        select_fixed_steps(plan.transforms)
    ) or compute_side_after(plan.transforms):
        size = transformed
    else:
        return expected.choose_size(choose_image_size(scans, max_size=expected.weights_size))
    if expected.required_size not in (None, size):
        raise InvalidParameterError(
            f"the initial weights of {plan.config.model} take images of {expected.required_size} "
            f"pixels, not {size}",
            f"Set image_size={expected.required_size}.",
        )
    return size


def _plan_storage(
    plan: TrainPlan, preprocessing: Preprocessing, scan: DatasetScan
) -> tuple[Preprocessing, tuple[TransformStep, ...]]:
    """Return how training images are stored, and the transforms left to apply in every epoch.

    Images that are cropped at random are stored larger, so that cropping does not enlarge them;
    for `augment` they are stored whole, squashed into a square. The crop of the weights is then for
    inference only.
    """
    assert preprocessing.image_size is not None
    with_margin = round(preprocessing.image_size * _TRAIN_MARGIN)
    fixed, remaining = split_at_random_step(plan.transforms)
    if not remaining:
        if plan.config.augment not in ("standard", "strong"):
            return preprocessing, ()
        side = compute_side_after(fixed) or with_margin
        side = min(round(side * _compute_stretch(scan, fixed)), MAX_SIDE)
        return replace(preprocessing, image_size=side, crop_fraction=1.0, fit=SQUASH), ()
    crops = any(step.name in ("RandomResizedCrop", "RandomCrop") for step in remaining)
    side = compute_side_after(fixed) or (with_margin if crops else preprocessing.image_size)
    return replace(preprocessing, image_size=min(side, MAX_SIDE), steps=fixed), remaining


def _compute_stretch(scan: DatasetScan, steps: Sequence[TransformStep]) -> float:
    """Return the factor of the stored side that makes up for squashing the median image.

    With the few ratios, more images of the same kind do not change how images are stored.
    """
    if any(step.name != "Resize" or not isinstance(step.arguments["size"], int) for step in steps):
        return 1.0
    sizes = [(file.width, file.height) for file in scan.files if not file.reason]
    if not sizes:
        return 1.0
    median = statistics.median(max(size) / min(size) for size in sizes)
    nearest: float = min(_STORED_RATIOS, key=lambda ratio: abs(math.log(median / ratio)))
    return math.sqrt(nearest)


def _prepare_sets(
    scans: Sequence[DatasetScan],
    preprocessings: Sequence[Preprocessing],
    plan: TrainPlan,
    callback: RunCallback,
) -> list[PreparedSet]:
    """Prepare the sets; the larger first, so that the smaller is the one without room."""

    def estimate_size(index: int) -> int:
        return len(scans[index].files) * (preprocessings[index].image_size or 0) ** 2

    order = sorted(range(len(scans)), key=estimate_size, reverse=True)
    prepared = {
        index: _prepare_set(scans[index], preprocessings[index], plan, callback) for index in order
    }
    return [prepared[index] for index in range(len(scans))]


def _prepare_set(
    scan: DatasetScan, preprocessing: Preprocessing, plan: TrainPlan, callback: RunCallback
) -> PreparedSet:
    for note in scan.images.notes:
        callback.on_note(f"{scan.images.source}: {note}")
    callback.on_scan_start(DECODING, len(scan.images))
    decoded = open_decoded(scan, preprocessing, plan.config.data_mode, callback)
    usable = select_usable(scan.images, decoded.reasons, strict=plan.config.strict)
    dataset = order_by_shards(scan, _build_dataset(decoded, usable, plan.classes), decoded)
    if (warning := find_uniform_shards(scan.images.source, dataset)) is not None:
        callback.on_note(warning)
    prepared = PreparedSet(scan, decoded, dataset)
    _report_set(prepared, callback)
    if resolve_mode(decoded) == STREAM:
        callback.on_note(describe_stream(scan, len(prepared.dataset)))
    return prepared


def _note_lost_pixels(
    prepared: PreparedSet, preprocessing: Preprocessing, callback: RunCallback
) -> None:
    notes = find_pixel_notes(
        prepared.scan,
        prepared.decoded,
        fit=preprocessing.fit,
        crop_fraction=preprocessing.crop_fraction,
        value_range=preprocessing.value_range,
    )
    for note in notes:
        callback.on_note(f"{prepared.scan.images.source}: {note}")


def _report_set(prepared: PreparedSet, callback: RunCallback) -> None:
    """Name the skipped images; count those with a warning, which the manifest lists."""
    for image in prepared.skipped:
        callback.on_note(f"skipped {image.name}: {image.reason}")
    scan = prepared.scan
    warnings = [
        f"{make_printable(item.name)} {file.warning}"
        for item, file, reason in zip(scan.images.items, scan.files, prepared.reasons, strict=True)
        if classify_image(file, reason) == WARNED
    ]
    if warnings:
        callback.on_note(
            f"{len(warnings)} images in {scan.images.source} have a warning, such as {warnings[0]}"
        )


def _build_dataset(pack: DecodedImages, usable: ImageSet, classes: Iterable[str]) -> ImageDataset:
    labels = label_indices(usable.items, tuple(classes))
    rows = np.asarray(pack.usable_rows(), dtype=np.int64)
    return ImageDataset(pack, rows, np.asarray(labels, dtype=np.int64))
