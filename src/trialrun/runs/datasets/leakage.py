"""What is suspicious about two sets together: images that are in both, or under two labels."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trialrun.image_cache import DecodedImages
from trialrun.image_cache.perceptual_hash import find_near_duplicates
from trialrun.images.checks.duplicates import Duplicates, find_duplicates
from trialrun.images.checks.groups import find_shared_groups
from trialrun.images.dataset import ImageSet, escape_non_utf8, make_printable
from trialrun.images.scanning.scan import DatasetScan

_SHOWN = 3  # examples in a note


@dataclass(frozen=True, slots=True)
class LeakageReport:
    """Duplicates by content, pairs that look alike, and groups on both sides.

    `num_unjudged` images of the second set look like too many of the first to be compared with all.
    """

    duplicates: Duplicates
    near: tuple[tuple[str, str], ...] = ()
    groups: tuple[str, ...] = ()
    num_unjudged: int = 0

    def counts(self) -> dict[str, int]:
        """How many of each, by the names under which they are recorded."""
        return {
            "leaked_images": len(self.duplicates.leaked),
            "conflicting_labels": len(self.duplicates.conflicting),
            "near_duplicates": len(self.near),
            "shared_groups": len(self.groups),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, by name."""
        return {
            **self.counts(),
            **asdict(self.duplicates),
            "near": list(self.near),
            "near_unjudged": self.num_unjudged,
            "groups": list(self.groups),
        }

    def notes(self) -> list[str]:
        """A sentence a finding, with examples."""
        found = self.duplicates
        told = [
            (found.leaked, "validation images are training images too"),
            (
                [[f"{name} ({label})" for name, label in group] for group in found.conflicting],
                "images stand under more than one label",
            ),
            (self.near, "pairs of a training and a validation image look alike"),
            ([[group] for group in self.groups], "groups have images in both sets"),
        ]
        notes = [f"{len(cases)} {what}: {_format_examples(cases)}" for cases, what in told if cases]
        if self.num_unjudged:
            notes.append(
                f"{self.num_unjudged} validation images resemble too many training images to be "
                "compared with all: some that look alike may have been missed"
            )
        return notes


def _format_examples(cases: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(map(make_printable, case)) for case in cases[:_SHOWN])
    return shown + (f"; and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")


def find_leakage(surveys: Sequence[DatasetScan], decoded: Sequence[DecodedImages]) -> LeakageReport:
    """What there is to be found in one or two sets."""
    duplicates = find_duplicates(surveys)
    if len(surveys) < 2:
        return LeakageReport(duplicates)
    sets = [surveyed.images for surveyed in surveys]
    alike = find_near_duplicates(decoded[0].likenesses, decoded[1].likenesses)
    near = _name_pairs(alike.pairs, surveys, sets)
    return LeakageReport(duplicates, near, find_shared_groups(sets[0], sets[1]), alike.num_unjudged)


def _name_pairs(
    pairs: Sequence[tuple[int, int]], surveys: Sequence[DatasetScan], sets: Sequence[ImageSet]
) -> tuple[tuple[str, str], ...]:
    """Pairs that look alike without being the same file."""
    return tuple(
        (escape_non_utf8(sets[0].items[left].name), escape_non_utf8(sets[1].items[right].name))
        for left, right in pairs
        if surveys[0].sightings[left].sha256 != surveys[1].sightings[right].sha256
    )
