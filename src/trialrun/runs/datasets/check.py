"""Checks datasets without training: decodes every image and finds problems and leakage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trialrun.config.data import CheckConfig
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
from trialrun.runs.datasets.sources import open_sets, open_source

_DEFAULT_CONFIG = CheckConfig()


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
    """Checked sets, their leakage, and the errors that prevent training on them.

    The sets are training data, validation data and, of a root with split folders, test data.
    `test_leakage` compares the training data with the test data, if there is any.
    """

    sets: tuple[CheckedSet, ...]
    leakage: LeakageReport
    problems: tuple[TrialrunError, ...]
    test_leakage: LeakageReport | None = None
    data_layout: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values by name."""
        return {
            "sets": [checked.to_json() for checked in self.sets],
            "data_layout": self.data_layout,
            "findings": self.leakage.to_json(),
            "test_findings": self.test_leakage and self.test_leakage.to_json(),
            "problems": [f"{type(error).__name__}: {error}" for error in self.problems],
        }

    def notes(self) -> list[str]:
        """Return one sentence per kind of leakage."""
        return [
            note
            for leakage in (self.leakage, self.test_leakage)
            if leakage is not None
            for note in leakage.notes()
        ]

    def raise_for_problems(self) -> None:
        """Raise one error that names all problems, if there are any."""
        if self.problems:
            raise merge_errors(self.problems)


def check_datasets(
    data: str,
    valid: str | None = None,
    *,
    strict: bool = False,
    config: CheckConfig = _DEFAULT_CONFIG,
    callback: RunCallback | None = None,
) -> CheckReport:
    """Decode every image of one or two sets, and leave no files behind.

    Of a root with split folders, all parts are checked.

    Raises:
        TrialrunError: A set cannot be opened. Other errors are returned in `problems`.
    """
    callback = callback or NoOpCallback()
    with scratch_directory() as scratch:
        opened = open_sets(
            data, config=config, cache=scratch, uses_valid=valid is None, uses_test=True
        )
        second = opened.valid
        if valid is not None:
            second = open_source(valid, config=config, cache=scratch)
        trained = [
            check_set(images, callback) for images in (opened.train, second) if images is not None
        ]
        tested = [] if opened.test is None else [check_set(opened.test, callback)]
        leakage = _find_leakage(trained)
        test_leakage = _find_leakage([trained[0], *tested]) if tested else None
        problems = tuple(_find_problems(trained, config, strict=strict))
    return CheckReport(
        (*trained, *tested),
        leakage,
        problems,
        test_leakage and replace(test_leakage, second_name="test"),
        opened.layout,
    )


def _find_leakage(sets: Sequence[CheckedSet]) -> LeakageReport:
    return find_leakage([checked.scan for checked in sets], [checked.decoded for checked in sets])


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


def _find_problems(
    sets: Sequence[CheckedSet], config: CheckConfig, *, strict: bool
) -> Iterator[TrialrunError]:
    """Yield the errors; a single unlabelled set is not an error, because it can be scored."""
    labelled = [
        checked for checked in sets if checked.images.declared_classes or checked.images.classes
    ]
    if len(sets) > 1 or labelled:
        for checked in sets:
            yield from check_trainable(checked.images, case_sensitive=config.case_sensitive_labels)
    for checked in sets:
        try:
            select_usable(checked.images, checked.decoded.reasons, strict=strict)
        except InvalidDatasetError as error:
            yield error
    if len(labelled) > 1:
        yield from check_same_classes(labelled[0].images, labelled[1].images)
