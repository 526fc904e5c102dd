"""Checks datasets without training: decodes every image and finds problems and leakage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trialrun.errors import InvalidDatasetError, TrialrunError, merge_errors
from trialrun.files import scratch_directory
from trialrun.image_cache import select_usable
from trialrun.image_cache.on_the_fly import OnTheFlyImages, decode_once
from trialrun.images import ImageSet, check_same_classes, check_trainable, escape_non_utf8
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import (
    GOOD,
    SKIPPED,
    WARNED,
    DatasetScan,
    choose_image_size,
    classify_image,
    scan_files,
)
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.runs.callbacks import DECODING, READING, NoOpCallback, RunCallback
from trialrun.runs.datasets.leakage import LeakageReport, find_leakage
from trialrun.runs.datasets.pixel_notes import find_pixel_notes
from trialrun.runs.datasets.sources import open_source


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """One set with its scan and the result of decoding every image."""

    scan: DatasetScan
    decoded: OnTheFlyImages
    pixel_notes: tuple[str, ...] = ()

    @property
    def images(self) -> ImageSet:
        """The names and labels of the set."""
        return self.scan.images

    def to_json(self) -> dict[str, Any]:
        """Return counts, and the skipped and warned images with the reason."""
        rows = [
            (escape_non_utf8(item.name), file, reason, classify_image(file, reason))
            for item, file, reason in zip(
                self.images.items, self.scan.files, self.decoded.reasons, strict=True
            )
        ]
        verdicts = [verdict for _, _, _, verdict in rows]
        return {
            "source": self.images.source,
            "digest": self.scan.content_digest(),
            "num_images": len(self.images),
            "images_by_class": self.images.count_classes(),
            "num_unlabelled": sum(item.label is None for item in self.images.items),
            "num_good": verdicts.count(GOOD),
            "num_skipped": verdicts.count(SKIPPED),
            "num_warned": verdicts.count(WARNED),
            "skipped": {name: reason for name, _, reason, verdict in rows if verdict == SKIPPED},
            "warned": {name: file.warning for name, file, _, verdict in rows if verdict == WARNED},
            "notes": [*self.images.notes, *self.pixel_notes],
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One or two checked sets, their leakage, and the errors that prevent training on them."""

    sets: tuple[CheckedSet, ...]
    leakage: LeakageReport
    problems: tuple[TrialrunError, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "sets": [checked.to_json() for checked in self.sets],
            "findings": self.leakage.to_json(),
            "problems": [f"{type(error).__name__}: {error}" for error in self.problems],
        }

    def raise_for_problems(self) -> None:
        """Raise one error that names all problems, if there are any."""
        if self.problems:
            raise merge_errors(self.problems)


def check_datasets(
    data: str,
    valid: str | None = None,
    *,
    strict: bool = False,
    callback: RunCallback | None = None,
) -> CheckReport:
    """Decode every image of one or two sets, and leave no files behind.

    Raises:
        TrialrunError: A set cannot be opened. Other errors are returned in `problems`.
    """
    callback = callback or NoOpCallback()
    with scratch_directory() as scratch:
        sources = [data] if valid is None else [data, valid]
        image_sets = [open_source(source, cache=scratch) for source in sources]
        sets = tuple(check_set(images, callback) for images in image_sets)
        scans = [checked.scan for checked in sets]
        leakage = find_leakage(scans, [checked.decoded for checked in sets])
    return CheckReport(sets, leakage, tuple(_find_problems(sets, strict=strict)))


def check_set(images: ImageSet, callback: RunCallback) -> CheckedSet:
    """Scan the files of one set and decode every image."""
    callback.on_scan_start(READING, len(images))
    scan = scan_files(images, threads=count_threads(), progress=callback.on_scan_progress)
    callback.on_scan_start(DECODING, len(images))
    preprocessing = Preprocessing(choose_image_size([scan]))
    decoded = decode_once(
        scan, preprocessing, threads=count_threads(), progress=callback.on_scan_progress
    )
    return CheckedSet(scan, decoded, tuple(find_pixel_notes(scan, decoded)))


def _find_problems(sets: Sequence[CheckedSet], *, strict: bool) -> Iterator[TrialrunError]:
    """Yield the errors; a single unlabelled set is not an error, because it can be scored."""
    labelled = [
        checked for checked in sets if checked.images.declared_classes or checked.images.classes
    ]
    if len(sets) > 1 or labelled:
        for checked in sets:
            yield from check_trainable(checked.images)
    for checked in sets:
        try:
            select_usable(checked.images, checked.decoded.reasons, strict=strict)
        except InvalidDatasetError as error:
            yield error
    if len(labelled) > 1:
        yield from check_same_classes(labelled[0].images, labelled[1].images)
