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
    num_skipped: int = 0

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
            "near_unjudged": self.num_skipped,
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
        if self.num_skipped:
            notes.append(
                f"{self.num_skipped} validation images resemble too many training images to be "
                "compared with all: some that look alike may have been missed"
            )
        return notes


def _format_examples(cases: Sequence[Sequence[str]]) -> str:
    shown = "; ".join(" = ".join(map(make_printable, case)) for case in cases[:_SHOWN])
    return shown + (f"; and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")


def find_leakage(scans: Sequence[DatasetScan], decoded: Sequence[DecodedImages]) -> LeakageReport:
    """What there is to be found in one or two sets."""
    duplicates = find_duplicates(scans)
    if len(scans) < 2:
        return LeakageReport(duplicates)
    sets = [scan.images for scan in scans]
    alike = find_near_duplicates(decoded[0].perceptual_hashes, decoded[1].perceptual_hashes)
    near = _name_pairs(alike.pairs, scans, sets)
    return LeakageReport(duplicates, near, find_shared_groups(sets[0], sets[1]), alike.num_skipped)


def _name_pairs(
    pairs: Sequence[tuple[int, int]], scans: Sequence[DatasetScan], sets: Sequence[ImageSet]
) -> tuple[tuple[str, str], ...]:
    """Pairs that look alike without being the same file."""
    return tuple(
        (escape_non_utf8(sets[0].items[left].name), escape_non_utf8(sets[1].items[right].name))
        for left, right in pairs
        if scans[0].files[left].sha256 != scans[1].files[right].sha256
    )
