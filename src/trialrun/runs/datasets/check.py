"""Checks image sets apart from training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trialrun.errors import InvalidDatasetError, TrialrunError, merged
from trialrun.files import scratch_directory
from trialrun.image_cache import usable_subset
from trialrun.image_cache.on_the_fly import LiveImages, looked_at
from trialrun.images import ImageSet, check_same_classes, check_trainable, escape_non_utf8
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.formats.image_directory_writer import verdict
from trialrun.images.scanning.scan import Survey, auto_image_size, survey
from trialrun.images.scanning.thread_pool import num_threads
from trialrun.runs.callbacks import DECODING, READING, Observer, Silent
from trialrun.runs.datasets.leakage import Findings, look_for
from trialrun.runs.datasets.sources import open_source


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """One set, every image of it decoded."""

    surveyed: Survey
    decoded: LiveImages

    @property
    def images(self) -> ImageSet:
        """Its names and labels."""
        return self.surveyed.images

    def to_json(self) -> dict[str, Any]:
        """Counts, and every image that is skipped or odd."""
        rows = list(
            zip(self.images.items, self.surveyed.sightings, self.decoded.reasons, strict=True)
        )
        verdicts = [verdict(seen, reason) for _, seen, reason in rows]
        return {
            "source": self.images.source,
            "digest": self.surveyed.content_digest(),
            "num_images": len(self.images),
            "images_by_class": self.images.counts(),
            "num_unlabelled": sum(item.label is None for item in self.images.items),
            "num_good": verdicts.count("good"),
            "num_skipped": verdicts.count("skipped"),
            "num_warned": verdicts.count("warned"),
            "skipped": {escape_non_utf8(item.name): reason for item, _, reason in rows if reason},
            "warned": {
                escape_non_utf8(item.name): seen.warning
                for item, seen, reason in rows
                if seen.warning and not reason
            },
            "notes": list(self.images.notes),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """One or two sets, what was found, and what keeps them from being learned from."""

    sets: tuple[CheckedSet, ...]
    findings: Findings
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
            raise merged(self.problems)


def check(
    data: str, valid: str | None = None, *, strict: bool = False, observer: Observer | None = None
) -> Checked:
    """Decode every image of one or two sets; nothing is written that stays.

    Raises:
        TrialrunError: A set cannot be opened; what else is wrong stands in `problems`.
    """
    observer = observer or Silent()
    with scratch_directory() as scratch:
        sources = [data] if valid is None else [data, valid]
        opened = [open_source(source, cache=scratch) for source in sources]
        sets = tuple(check_set(images, observer) for images in opened)
        surveys = [checked.surveyed for checked in sets]
        findings = look_for(surveys, [checked.decoded for checked in sets])
    return Checked(sets, findings, tuple(_problems(sets, strict=strict)))


def check_set(images: ImageSet, observer: Observer) -> CheckedSet:
    """Scan the files of one set and decode every image."""
    observer.scanning(READING, len(images))
    surveyed = survey(images, threads=num_threads(), progress=observer.scanned)
    observer.scanning(DECODING, len(images))
    preprocessing = Preprocessing(auto_image_size([surveyed]))
    decoded = looked_at(surveyed, preprocessing, threads=num_threads(), progress=observer.scanned)
    return CheckedSet(surveyed, decoded)


def _problems(sets: Sequence[CheckedSet], *, strict: bool) -> Iterator[TrialrunError]:
    """An unlabelled set alone is fit to be scored, and no problem."""
    labelled = [
        checked for checked in sets if checked.images.declared_classes or checked.images.classes
    ]
    if len(sets) > 1 or labelled:
        for checked in sets:
            yield from check_trainable(checked.images)
    for checked in sets:
        try:
            usable_subset(checked.images, checked.decoded.reasons, strict=strict)
        except InvalidDatasetError as error:
            yield error
    if len(labelled) > 1:
        yield from check_same_classes(labelled[0].images, labelled[1].images)
