"""Checks image sets apart from training."""

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
from trialrun.runs.datasets.sources import open_source


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """One set, every image of it decoded."""

    scan: DatasetScan
    decoded: OnTheFlyImages

    @property
    def images(self) -> ImageSet:
        """Its names and labels."""
        return self.scan.images

    def to_json(self) -> dict[str, Any]:
        """Counts, and every image that is skipped or odd."""
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
            "notes": list(self.images.notes),
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One or two sets, what was found, and what keeps them from being learned from."""

    sets: tuple[CheckedSet, ...]
    findings: LeakageReport
    problems: tuple[TrialrunError, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return {
            "sets": [checked.to_json() for checked in self.sets],
            "findings": self.findings.to_json(),
            "problems": [f"{type(error).__name__}: {error}" for error in self.problems],
        }

    def raise_for_problems(self) -> None:
        """Raise what keeps the sets from being learned from, if anything does."""
        if self.problems:
            raise merge_errors(self.problems)


def check_datasets(
    data: str,
    valid: str | None = None,
    *,
    strict: bool = False,
    callback: RunCallback | None = None,
) -> CheckReport:
    """Decode every image of one or two sets; nothing is written that stays.

    Raises:
        TrialrunError: A set cannot be opened; what else is wrong stands in `problems`.
    """
    callback = callback or NoOpCallback()
    with scratch_directory() as scratch:
        sources = [data] if valid is None else [data, valid]
        opened = [open_source(source, cache=scratch) for source in sources]
        sets = tuple(check_set(images, callback) for images in opened)
        scans = [checked.scan for checked in sets]
        findings = find_leakage(scans, [checked.decoded for checked in sets])
    return CheckReport(sets, findings, tuple(_find_problems(sets, strict=strict)))


def check_set(images: ImageSet, callback: RunCallback) -> CheckedSet:
    """Scan the files of one set and decode every image."""
    callback.scanning(READING, len(images))
    scan = scan_files(images, threads=count_threads(), progress=callback.scanned)
    callback.scanning(DECODING, len(images))
    preprocessing = Preprocessing(choose_image_size([scan]))
    decoded = decode_once(scan, preprocessing, threads=count_threads(), progress=callback.scanned)
    return CheckedSet(scan, decoded)


def _find_problems(sets: Sequence[CheckedSet], *, strict: bool) -> Iterator[TrialrunError]:
    """An unlabelled set alone is fit to be scored, and no problem."""
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
