"""Image sets apart from training: checked, converted, split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialrun.errors import InvalidDatasetError, InvalidParameterError, TrialrunError, merged
from trialrun.files import new_directory, scratch_directory
from trialrun.images import ImageSet, check_same_classes, check_trainable, escape_non_utf8
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.split import stratified_split
from trialrun.images.survey import Survey, auto_image_size, survey
from trialrun.images.workers import num_threads
from trialrun.images.writer import Written, verdict, write_image_directory
from trialrun.packing import skipped_images, usable_subset
from trialrun.packing.live import LiveImages, looked_at
from trialrun.runs.findings import Findings, look_for
from trialrun.runs.kept import keep_within_limit
from trialrun.runs.observer import DECODING, READING, Observer, Silent
from trialrun.runs.sources import open_source


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
        sets = tuple(_checked(images, observer) for images in opened)
        surveys = [checked.surveyed for checked in sets]
        findings = look_for(surveys, [checked.decoded for checked in sets])
    return Checked(sets, findings, tuple(_problems(sets, strict=strict)))


def _checked(images: ImageSet, observer: Observer) -> CheckedSet:
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


def convert(source: str, out: str, *, observer: Observer | None = None) -> Written:
    """Write DATA as an ImageDirectory; images that cannot be read are left out and noted.

    Raises:
        TrialrunError: DATA cannot be opened, or `out` exists or cannot be written.
    """
    folder = _folder_of(out)
    images = open_source(source)
    _check_outside(folder, images)
    keep_within_limit()
    checked = _checked(images, observer or Silent())
    return _written(checked, folder, observer or Silent())


def split(
    data: str,
    out: str,
    *,
    fraction: float,
    random_seed: int,
    group_column: str | None = None,
    group_pattern: str | None = None,
    observer: Observer | None = None,
) -> tuple[Written, Written]:
    """Write `out/train` with about `fraction` of each class, and `out/valid` with the rest.

    Raises:
        InvalidParameterError: `fraction` is not between 0 and 1.
        TrialrunError: DATA cannot be opened or split, or `out` exists or cannot be written.
    """
    if not 0 < fraction < 1:
        raise InvalidParameterError(
            f"fraction={fraction:g} is not between 0 and 1", "Take 0.9, say."
        )
    observer = observer or Silent()
    images = open_source(data, group_column=group_column, group_pattern=group_pattern)
    keep_within_limit()
    if problems := check_trainable(images):
        raise merged(problems)
    parts = stratified_split(
        images.labelled(), second_fraction=1 - fraction, random_seed=random_seed
    )
    folder = _folder_of(out)
    _check_outside(folder, images)
    with new_directory(folder) as draft:
        train, valid = (
            _written(_checked(part, observer), draft / name, observer, named=folder / name)
            for part, name in zip(parts, ("train", "valid"), strict=True)
        )
    return train, valid


def _folder_of(out: str) -> Path:
    try:
        return Path(out).expanduser()
    except RuntimeError as error:  # ~name, and there is no such user
        raise InvalidParameterError(f"there is no {out}: {error}", "Give a full path.") from None


def _check_outside(out: Path, images: ImageSet) -> None:
    """What is written among the images would be read as more of them."""
    if out.resolve().is_relative_to(images.root.resolve()):
        raise InvalidParameterError(
            f"{out} lies in {images.source} itself", "Choose a folder outside of it."
        )


def _written(
    checked: CheckedSet, out: Path, observer: Observer, named: Path | None = None
) -> Written:
    for each in skipped_images(checked.images, checked.decoded.reasons):
        observer.note(f"left out {each.name}: {each.reason}")
    for note in checked.images.notes:
        observer.note(f"{checked.images.source}: {note}")
    return write_image_directory(checked.surveyed, checked.decoded.reasons, out, named=named)
